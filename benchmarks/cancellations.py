"""What callers who leave behind: nothing. 10,000 of 11,000 requests are cancelled at random phases, over gRPC and over HTTP.

Beside those who leave, others stay and check their answers token by token. Then: how long until nothing runs, waits or
holds a block, and what the server's resident memory is beside its value before.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.overload import resident_mib
from benchmarks.results_file import markdown_table, write_results
from tests.e2e.callers import MODEL, Caller, open_callers
from tests.e2e.cancellation import grpc_storm, http_storm
from tests.e2e.metrics import eventually, is_idle
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import Question

_START_TIMEOUT_S = 120
_IDLE_TIMEOUT_S = 30.0
_NUM_STAYING_AT_ONCE = 8
_WAYS = {"grpc": ("grpc-unary", "grpc-stream"), "http": ("http", "sse")}
_HEADING = ["transport", "left", "stayed, all right", "seconds", "idle after s", "resident MiB before", "after", "change"]


async def stay(callers: list[Caller], num_calls: int) -> None:
    """Ask ``num_calls`` questions, some side by side, and check every answer."""
    turns = iter(range(num_calls))

    async def ask() -> None:
        for turn in turns:
            question = Question(start=turn % 200, length=16)
            question.check(await callers[turn % len(callers)].greedy(question.prompt, question.length))

    await asyncio.gather(*(ask() for _ in range(_NUM_STAYING_AT_ONCE)))


async def storm(server: ServerProcess, transport: str, *, num_left: int, num_stayed: int, seed: int) -> float:
    """Let callers leave and others stay; return the seconds until the server was idle after that."""
    leave = grpc_storm if transport == "grpc" else http_storm
    async with open_callers(server) as callers:
        staying = [callers[way] for way in _WAYS[transport]]
        await asyncio.gather(leave(server, num_calls=num_left, seed=seed), stay(staying, num_stayed))
    return await eventually(server.http_url, is_idle, within_s=_IDLE_TIMEOUT_S)


def main() -> None:
    """Run and print the table; with ``--write`` put it into ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--left", type=int, default=10_000, help="requests that are cancelled, a transport")
    parser.add_argument("--stayed", type=int, default=1_000, help="requests that are not")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--local", "--http-port", "0", "--grpc-port", "0", "--log-level", "warning", "--kv-cache-memory", "12MiB")
        server = ServerProcess(MODEL, *flags, log_dir=Path(folder))
        try:
            server.wait_ready(_START_TIMEOUT_S)
            for transport in _WAYS:
                # Until every buffer has the size that such a storm gives it.
                asyncio.run(storm(server, transport, num_left=arguments.left // 5, num_stayed=arguments.stayed // 5, seed=1))
            for transport in _WAYS:
                before_mib, started_s = resident_mib(server.pid), time.monotonic()
                idle_s = asyncio.run(storm(server, transport, num_left=arguments.left, num_stayed=arguments.stayed, seed=2))
                seconds, after_mib = time.monotonic() - started_s, resident_mib(server.pid)
                row = [transport, str(arguments.left), str(arguments.stayed), f"{seconds:.0f}", f"{idle_s:.3f}"]
                rows.append([*row, f"{before_mib:.1f}", f"{after_mib:.1f}", f"{100 * (after_mib / before_mib - 1):+.2f} %"])
        finally:
            server.stop()
    table = markdown_table(_HEADING, rows)
    print(table)
    if arguments.write:
        command = f"python -m benchmarks.cancellations --left {arguments.left} --stayed {arguments.stayed} --write"
        print("written to", write_results("cancellations", command, [table]).name)


if __name__ == "__main__":
    main()
