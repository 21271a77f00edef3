"""Makes and measures ``attendant-minilm``: ``python -m models.recipes.minilm build|evaluate``.

``build --data PACK`` writes the trunk and trains the three adapters; about half an hour on two cores, and it goes on where it
stopped. ``evaluate --data PACK --address HOST:PORT`` asks a running server for every figure of the card.
"""

import argparse
import time
from pathlib import Path

import torch

from models.recipes.minilm.tasks import TASKS, load_task
from models.recipes.minilm.train import Trainer
from models.recipes.minilm.trunk import NAME, write_trunk

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / NAME
SEED = 20261121
BUDGET_MINUTES = {"sentiment": 9, "topic": 5, "intent": 8}
"""What each adapter takes on two cores with bfloat16."""


def build(data: Path, output: Path, work: Path, *, tasks: tuple[str, ...], minutes: float) -> int:
    """Write the trunk, then train and write each adapter; 1 where the time ran out and another call has to go on."""
    deadline_s = time.monotonic() + 60 * minutes
    needed = sum(BUDGET_MINUTES[task] for task in tasks)
    print(f"Time budget: {minutes:g} minutes for this call; about {needed} minutes for {', '.join(tasks)}.", flush=True)
    if not (output / "model.safetensors").exists():
        write_trunk(output)
    for name in tasks:
        directory = output / "adapters" / name
        if (directory / "adapter_model.safetensors").exists():
            continue
        trainer = Trainer(load_task(name, data, SEED), output, work / f"{name}.pt", SEED)
        if not trainer.run(deadline_s - time.monotonic()):
            print(f"{name}: the time is over; run this again to go on.")
            return 1
        trainer.export(directory)
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.minilm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="write the trunk and train the adapters")
    making.add_argument("--data", type=Path, required=True, help="the pack of open data")
    making.add_argument("--output", type=Path, default=MODEL)
    making.add_argument("--work", type=Path, default=HERE / "build", help="where training keeps its state")
    making.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    making.add_argument("--minutes", type=float, default=60.0, help="stop after about this long; another call goes on")
    making.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    measuring = commands.add_parser("evaluate", help="measure a running server over gRPC")
    measuring.add_argument("--data", type=Path, required=True, help="the pack of open data")
    measuring.add_argument("--address", default="127.0.0.1:9000", help="of gRPC")
    measuring.add_argument("--figures", type=Path, default=None, help="write the confusion matrices there")
    arguments = parser.parse_args()
    if arguments.command == "evaluate":
        from models.recipes.minilm.evaluate import evaluate

        evaluate(arguments.data, arguments.address, arguments.figures)
        return 0
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return build(arguments.data, arguments.output, arguments.work, tasks=tuple(arguments.tasks), minutes=arguments.minutes)


if __name__ == "__main__":
    raise SystemExit(main())
