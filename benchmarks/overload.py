"""What a server does with more than it can do: 1, 2, 5 and 10 times its capacity, open loop, every request with a deadline.

Capacity is what as many callers as the engine has seats get in a closed loop. Goodput counts the tokens of answers that came
in time; it is taken from one deadline after the start on, when the queue is as full as it gets.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.checkpoints import GPT2_124M, GPT2_TINY, write_gpt2
from benchmarks.open_loop import Outcome, Sender, Shape
from benchmarks.results_file import markdown_table, write_results
from benchmarks.servers import RunningServer, serve

_SHAPES = {"gpt2": GPT2_124M, "tiny": GPT2_TINY}
_HEADING = [
    "offered, times capacity",
    "requests",
    "answered in time",
    "answered late",
    "refused",
    "refusal ms p50",
    "p99",
    "with a time to come back",
    "let in, not done in time",
    "no answer",
    "goodput tokens/s",
    "of peak",
    "resident MiB before",
    "after",
]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that ``share`` of ``values`` do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no resident memory")


def tokens_per_s(outcomes: Sequence[Outcome], deadline_s: float, from_s: float, until_s: float) -> float:
    """Return the tokens a second of the answers that came in time, and between the two moments."""
    in_time = [each for each in outcomes if each.status == 200 and each.duration_s <= deadline_s and from_s <= each.ended_s < until_s]
    return sum(each.num_tokens for each in in_time) / (until_s - from_s)


def level(server: RunningServer, shape: Shape, *, factor: float, rate: float, peak: float, seconds: float) -> list[str]:
    """Offer one load and return its row of the table."""
    before_mib = resident_mib(server.pid)
    sender = Sender(server.http_url, shape, seed=round(10 * factor))
    asyncio.run(sender.open(rate, seconds))
    outcomes = sender.outcomes
    refusals = [each for each in outcomes if each.is_refusal]
    refusal_ms = [1000 * each.duration_s for each in refusals]
    answered = [each for each in outcomes if each.status == 200]
    late = [each for each in answered if each.duration_s > shape.deadline_s]
    settled_s = min(shape.deadline_s, seconds / 2)
    goodput = tokens_per_s(outcomes, shape.deadline_s, settled_s, seconds)
    others = [each for each in outcomes if each.status not in (0, 200) and not each.is_refusal]
    refused = [each for each in outcomes if each.status in (429, 503)] + [each for each in refusals if each.status == 504]
    return [
        f"{factor:g}",
        f"{len(outcomes)}",
        f"{len(answered) - len(late)}",
        f"{len(late)}",
        f"{len(refused)}",
        f"{quantile(refusal_ms, 0.5):.1f}",
        f"{quantile(refusal_ms, 0.99):.1f}",
        f"{len(refusals)}",
        f"{len(others)}",
        f"{sum(1 for each in outcomes if each.status == 0)}",
        f"{goodput:.1f}",
        f"{goodput / peak:.3f}",
        f"{before_mib:.1f}",
        f"{resident_mib(server.pid):.1f}",
    ]


def main() -> None:
    """Run and print the table; with ``--write`` put it into ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(_SHAPES), default="gpt2")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each level")
    parser.add_argument("--levels", type=float, nargs="+", default=[1.0, 2.0, 5.0, 10.0], help="times capacity")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--deadline-s", type=float, default=20.0)
    parser.add_argument("--seats", type=int, default=32, help="most sequences in a step, and callers of the closed loop")
    parser.add_argument("--kv-cache-memory", default="512MiB")
    parser.add_argument("--warm-up-s", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    size = _SHAPES[arguments.model]
    shape = Shape(
        model="m",
        vocab_size=size["vocab_size"],
        prompt_tokens=arguments.prompt_tokens,
        max_tokens=arguments.max_tokens,
        deadline_s=arguments.deadline_s,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "checkpoint", size)
        log = Path(folder) / "server.log"
        flags = ("--local", "--max-num-seqs", str(arguments.seats), "--kv-cache-memory", arguments.kv_cache_memory)
        with serve(*flags, "--log-level", "warning", f"m={checkpoint}", log=log) as server:
            patient = replace(shape, deadline_s=600.0)
            # Long enough that the cache, whose pages come as they are written to, has its full size.
            asyncio.run(Sender(server.http_url, patient, seed=0).closed(arguments.seats, arguments.warm_up_s))
            closed = Sender(server.http_url, patient, seed=-1)
            asyncio.run(closed.closed(arguments.seats, min(60.0, arguments.seconds)))
            last_s = max(each.ended_s for each in closed.outcomes)
            peak = tokens_per_s(closed.outcomes, patient.deadline_s, 0.0, last_s + 1e-6)
            rate = peak / shape.max_tokens
            rows = [
                level(server, shape, factor=factor, rate=factor * rate, peak=peak, seconds=arguments.seconds) for factor in arguments.levels
            ]
    about = (
        f"{arguments.model}, float32, one process: {shape.prompt_tokens} tokens in, {shape.max_tokens} out, "
        f"deadline {shape.deadline_s:g} s, {arguments.seats} seats, {arguments.seconds:g} s a level. "
        f"Peak, closed loop: {peak:.1f} tokens/s, {rate:.2f} requests/s."
    )
    sections = [about, markdown_table(_HEADING, rows)]
    print("\n\n".join(sections))
    if arguments.write:
        command = (
            f"python -m benchmarks.overload --model {arguments.model} --seconds {arguments.seconds:g} "
            f"--prompt-tokens {shape.prompt_tokens} --max-tokens {shape.max_tokens} "
            f"--deadline-s {shape.deadline_s:g} --seats {arguments.seats} --write"
        )
        print("written to", write_results("overload", command, sections).name)


if __name__ == "__main__":
    main()
