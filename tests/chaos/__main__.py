"""Kills or stops engine replicas, or cuts their hosts off, under load, by a seed; no call may fail, and no answer may differ
from a quiet server's.

    python -m tests.chaos [--minutes 10] [--replicas 3] [--callers 64] [--every-s 20] [--fault kill] [--seed 0] [--write]

``--fault node`` serves on several hosts, which are network namespaces: it needs root and iproute2.

Callers go through gRPC (unary, streams, drawn tokens) and HTTP (unary, server-sent events). Prints a table and exits with
1 where a call failed or an answer differs.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from benchmarks.checkpoints import write_gpt2
from benchmarks.results_file import markdown_table, write_results
from tests.chaos.faults import PROCESS_FAULTS, Fault, LostHost, LostProcess
from tests.chaos.load import Load, Record, questions
from tests.chaos.nodes import Nodes
from tests.e2e.callers import MODEL, Server
from tests.e2e.metrics import label_values, scrape, total
from tests.e2e.server_process import ServerProcess

_GPT2 = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024, "vocab_size": 2048}
"""Small, and yet slow enough that a stream lasts for seconds."""

_REPLACED_WITHIN_S = 120


async def _disturb(server: Server, fault: Fault, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Do harm again and again; return when (monotonic) and how many seconds each replacement took."""
    rng = random.Random(arguments.seed)
    end_s = time.monotonic() + 60 * arguments.minutes
    moments_s: list[float] = []
    replaced_s: list[float] = []
    while time.monotonic() + arguments.every_s < end_s:
        await asyncio.sleep(arguments.every_s)
        before = label_values(await scrape(server.http_url), "attendant_requests_running", "replica")
        done = await fault.strike(rng)
        moments_s.append(time.monotonic())
        replaced_s.append(await _replacement(server, before, arguments.replicas))
        print(f"{done}: replaced after {replaced_s[-1]:.1f} s", flush=True)
        await fault.mend()
    return moments_s, replaced_s


async def _replacement(server: Server, before: set[str], num_replicas: int) -> float:
    """Wait until as many replicas as wanted report, one of them new; return the seconds that took."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < _REPLACED_WITHIN_S:
        now = label_values(await scrape(server.http_url), "attendant_requests_running", "replica")
        if len(now) == num_replicas and now - before:
            return time.monotonic() - begun_s
        await asyncio.sleep(0.1)
    raise AssertionError(f"no replacement within {_REPLACED_WITHIN_S} s\n{server.stderr[-2000:]}")


async def _run(arguments: argparse.Namespace, server: Server, fault: Fault) -> int:
    load = Load(server, questions(random.Random(arguments.seed), arguments.tokens), num_callers=arguments.callers)
    asking = asyncio.ensure_future(load.run())
    begun_s = time.monotonic()
    moments_s, replaced_s = await _disturb(server, fault, arguments)
    load.is_ending = True
    await asking
    samples = await scrape(server.http_url)
    table = _table(load.record, moments_s, replaced_s, num_moved=total(samples, "attendant_stream_failovers_total"))
    print(f"\n{time.monotonic() - begun_s:.0f} s\n\n{table}")
    for line in (*load.record.failures[:10], *load.record.differing[:10]):
        print("WRONG", line)
    if arguments.write:
        write_results("chaos-" + arguments.fault, "python -m tests.chaos " + " ".join(sys.argv[1:]), [table])
    return 1 if load.record.failures or load.record.differing else 0


def _table(record: Record, moments_s: Sequence[float], replaced_s: Sequence[float], *, num_moved: float) -> str:
    disturbed = [pause for at_s in moments_s for pause in record.pauses_between(at_s, at_s + 10)]
    quiet = [pause for at_s, pause in record.pauses_s if not any(moment <= at_s < moment + 10 for moment in moments_s)]
    rows = [
        ["faults", str(len(moments_s))],
        *([f"answers, {way}", f"{count:,}"] for way, count in sorted(record.answers.items())),
        ["failed", str(len(record.failures))],
        ["differing from a quiet server's", str(len(record.differing))],
        ["requests moved to another replica", f"{num_moved:,.0f}"],
        ["a stream's longest pause within 10 s of a fault, p50 / p99 / most, s", _spread(disturbed)],
        ["the same elsewhere", _spread(quiet)],
        ["replacement, median / most, s", f"{median(replaced_s):.1f} / {max(replaced_s):.1f}" if replaced_s else "-"],
    ]
    return markdown_table(["", ""], rows)


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    return f"{median(values):.2f} / {quantiles(values, n=100)[98]:.2f} / {max(values):.2f} ({len(values)} streams)"


def main() -> int:
    """Start a server, disturb it, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=300, help="most tokens of an answer")
    parser.add_argument("--every-s", type=float, default=20.0, help="seconds from one fault's end to the next")
    parser.add_argument("--fault", choices=(*PROCESS_FAULTS, "node"), default="kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
        model = write_gpt2(Path(folder) / "model", _GPT2)
        if arguments.fault == "node":
            flags = {"log_level": "error", "kv_cache_memory": "256MiB"}
            with Nodes(MODEL, model, num_replicas=arguments.replicas, flags=flags, folder=Path(folder)) as nodes:
                nodes.wait_ready(_REPLACED_WITHIN_S)
                return asyncio.run(_run(arguments, nodes, LostHost(nodes)))
        given = ("--http-port", "0", "--grpc-port", "0", "--replicas", str(arguments.replicas), "--log-level", "error")
        server = ServerProcess(f"{MODEL}={model}", *given, "--kv-cache-memory", "256MiB", log_dir=Path(folder))
        try:
            server.wait_ready(_REPLACED_WITHIN_S)
            return asyncio.run(_run(arguments, server, LostProcess(server, arguments.fault)))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
