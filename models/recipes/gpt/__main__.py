"""The steps of the recipe, one command each: ``python -m models.recipes.gpt prepare|train|export|cases|measure``."""

import argparse
from pathlib import Path

from models.recipes.gpt.commands import cases_command, export_command, prepare_command, train_command
from models.recipes.gpt.measure.command import measure_command

DEFAULT_WORK = Path(".tools/attendant-gpt")
DEFAULT_CASES = Path("models/attendant-gpt/few-shot-cases.jsonl")
PARTS = ("text", "few-shot", "continuations")


def main() -> None:
    """Read the command line and do one step."""
    commands = {
        "prepare": prepare_command,
        "train": train_command,
        "export": export_command,
        "cases": cases_command,
        "measure": measure_command,
    }
    parser = argparse.ArgumentParser(prog="python -m models.recipes.gpt", description=__doc__)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder for tokens and checkpoints (default %(default)s)")
    steps = parser.add_subparsers(dest="step", required=True)
    prepare = steps.add_parser("prepare", help="train the tokenizer and encode the text; `train` does it too where it is missing")
    train = steps.add_parser("train", help="train, or go on training from the checkpoint in the work folder")
    export = steps.add_parser("export", help="write the model in Hugging Face layout, in bfloat16")
    cases = steps.add_parser("cases", help="write the few-shot cases that nothing was trained on")
    measure = steps.add_parser("measure", help="measure a running server over gRPC and write the tables and plots")
    for step in (prepare, train, cases, measure):
        step.add_argument("--data", type=Path, required=True, help="the data pack: the folder with lm/, fewshot/ and classification/")
    for step in (prepare, train):
        step.add_argument("--vocab-size", type=int, default=8192, help="tokens of the vocabulary (default %(default)s)")
    train.add_argument("--hours", type=float, help="hours of work of the cores, all of the run's together; pauses do not count")
    train.add_argument("--tokens", type=float, help="tokens, all of the run's together")
    train.add_argument("--decay-now", action="store_true", help="let the learning rate fall from here on, and end")
    train.add_argument("--more-tokens", type=float, help="let a run that has ended learn from so many more, at a lower rate that falls")
    train.add_argument("--width", type=int, default=384)
    train.add_argument("--layers", type=int, default=6)
    train.add_argument("--heads", type=int, default=6)
    train.add_argument("--seed", type=int, default=20261121)
    train.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    train.add_argument("--batch", type=int, default=6, help="windows of 1,024 tokens a step (default %(default)s)")
    train.add_argument("--micro-batch", type=int, default=6144, help="tokens computed at once (default %(default)s)")
    train.add_argument("--compile", action="store_true", help="compile the model: an eighth faster on a CPU, needs g++")
    export.add_argument("destination", type=Path, help="folder to write to, such as models/attendant-gpt")
    cases.add_argument("destination", type=Path, help="file to write, such as models/attendant-gpt/few-shot-cases.jsonl")
    measure.add_argument("--url", default="127.0.0.1:9000", help="gRPC address of the server (default %(default)s)")
    measure.add_argument("--model", default="attendant-gpt", help="name of the served model (default %(default)s)")
    measure.add_argument("--cases", type=Path, default=DEFAULT_CASES, help="few-shot cases (default %(default)s)")
    measure.add_argument("--output", type=Path, required=True, help="folder for measured.md and few-shot.svg")
    measure.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    arguments = parser.parse_args()
    commands[arguments.step](arguments)


if __name__ == "__main__":
    main()
