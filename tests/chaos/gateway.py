"""Kills the gateway under load, again and again; no stream and no call of the Python client may fail or differ.

    python -m tests.chaos.gateway [--minutes 10] [--replicas 2] [--callers 64] [--every-s 30] [--seed 0] [--write]

Prints a table and exits with 1 where a call failed or an answer differs from a quiet server's.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import httpx

from benchmarks.checkpoints import GPT2_4M, write_gpt2
from benchmarks.results_file import markdown_table, write_results
from tests.chaos.client_load import ClientLoad, ClientRecord
from tests.chaos.load import questions
from tests.e2e.callers import MODEL
from tests.e2e.metrics import engine_replicas, scrape
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess

_REPLACED_WITHIN_S = 120


async def _disturb(server: ServerProcess, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Kill again and again; return when (monotonic), and how many seconds it took until the next gateway knew all replicas."""
    end_s = time.monotonic() + 60 * arguments.minutes
    deaths: list[tuple[float, float]] = []
    while time.monotonic() + arguments.every_s < end_s:
        await asyncio.sleep(arguments.every_s)
        victims = [pid for pid, command in descendants(server.pid).items() if ":gateway" in command]
        at_s = time.monotonic()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        # Serve's proxy may still send a scrape to the one that is dead.
        while await _num_replicas(server) < arguments.replicas:
            assert time.monotonic() - at_s < _REPLACED_WITHIN_S, f"no gateway within {_REPLACED_WITHIN_S} s\n{server.stderr[-2000:]}"
            await asyncio.sleep(0.1)
        deaths.append((at_s, time.monotonic() - at_s))
        print(f"killed {victims}: replaced after {deaths[-1][1]:.1f} s", flush=True)
    return deaths


async def _num_replicas(server: ServerProcess) -> int:
    """Count the engine replicas that the gateway knows; 0 while there is none."""
    try:
        return len(engine_replicas(await scrape(server.http_url)))
    except httpx.HTTPError:
        return 0


async def _run(arguments: argparse.Namespace, server: ServerProcess) -> int:
    load = ClientLoad(server, questions(random.Random(arguments.seed), arguments.tokens), num_callers=arguments.callers)
    asking = asyncio.ensure_future(load.run())
    await load.has_begun.wait()
    deaths = await _disturb(server, arguments)
    load.is_ending = True
    await asking
    table = _table(load.record, deaths)
    print(f"\n{table}")
    for line in (*load.record.failures[:10], *load.record.differing[:10]):
        print("WRONG", line)
    if arguments.write:
        write_results("chaos-gateway", "python -m tests.chaos.gateway " + " ".join(sys.argv[1:]), [table])
    return 1 if load.record.failures or load.record.differing else 0


def _table(record: ClientRecord, deaths: list[tuple[float, float]]) -> str:
    pauses = [pause for at_s, replaced_s in deaths for pause in record.pauses_between(at_s, at_s + replaced_s + 10)]
    rows = [
        ["gateways killed", str(len(deaths))],
        *([f"answers, {way}", f"{count:,}"] for way, count in sorted(record.answers.items())),
        ["streams that were resumed", f"{record.num_resumed:,}"],
        ["failed", str(len(record.failures))],
        ["differing from a quiet server's", str(len(record.differing))],
        ["next gateway, median / most, s", f"{median(s for _, s in deaths):.1f} / {max(s for _, s in deaths):.1f}" if deaths else "-"],
        [
            "a stream's longest pause from a death on, p50 / p99 / most, s",
            f"{median(pauses):.1f} / {quantiles(pauses, n=100)[98]:.1f} / {max(pauses):.1f}" if len(pauses) > 1 else "-",
        ],
    ]
    return markdown_table(["", ""], rows)


def main() -> int:
    """Start a server, kill its gateway, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.gateway", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=300, help="most tokens of an answer")
    parser.add_argument("--every-s", type=float, default=30.0, help="seconds from one gateway's start to its death")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_gpt2(Path(folder) / "model", GPT2_4M)
        flags = ("--http-port", "0", "--grpc-port", "0", "--replicas", str(arguments.replicas), "--log-level", "error")
        server = ServerProcess(f"{MODEL}={model}", *flags, "--kv-cache-memory", "256MiB", log_dir=Path(folder))
        try:
            server.wait_ready(_REPLACED_WITHIN_S)
            return asyncio.run(_run(arguments, server))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
