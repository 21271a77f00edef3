"""Whether slow readers slow others down: ``python -m benchmarks.slow_readers``.

A server in one process; callers that stream completions, alone and beside readers who take one byte a second of their own streams.
Both conditions in turn, several rounds; the table has the others' times between chunks and to the first, and the server's memory.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

import httpx
from prometheus_client.samples import Sample

from benchmarks.results_file import markdown_table, write_results
from tests.e2e.metrics import eventually, total
from tests.e2e.server_process import ServerProcess

MODEL = "stories260k"
NUM_CALLERS = 8
START_TIMEOUT_S = 120
_RECEIVE_BUFFER_BYTES = 2048


async def read_slowly(url: str, logprobs: int | None, is_answered: asyncio.Event) -> None:
    """Ask for a stream as long as the context takes and read one byte a second of it, for as long as this runs."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as slow:
        # Before connecting: the window that the peer hears of is the buffer's.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        slow.setblocking(False)
        await loop.sock_connect(slow, (address.hostname, address.port))
        options = {"max_tokens": 480, "ignore_eos": True, "temperature": 0, "stream": True, "logprobs": logprobs}
        body = json.dumps({"model": MODEL, "prompt": "Once upon a time", **options}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(slow, head.encode() + body)
        while await loop.sock_recv(slow, 1):
            is_answered.set()
            await asyncio.sleep(1)


async def call(client: httpx.AsyncClient, end_s: float, gaps_s: list[float], firsts_s: list[float]) -> None:
    """Stream completions until ``end_s``; note the time to each first chunk and between chunks."""
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 64, "ignore_eos": True, "temperature": 0, "stream": True}
    while time.monotonic() < end_s:
        last_s = time.monotonic()
        noted = firsts_s
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for _ in response.aiter_raw():
                now_s = time.monotonic()
                noted.append(now_s - last_s)
                last_s, noted = now_s, gaps_s


async def round_of(url: str, pid: int, num_slow: int, duration_s: float, *, logprobs: int | None) -> tuple[list[float], list[float], float]:
    """Return the others' gaps and first chunks in seconds, with ``num_slow`` readers beside them whose streams have begun.

    The last value is the resident memory of the server ``pid`` at the end, in MiB.
    """
    gaps_s: list[float] = []
    firsts_s: list[float] = []
    begun = [asyncio.Event() for _ in range(num_slow)]
    slow = [asyncio.ensure_future(read_slowly(url, logprobs, event)) for event in begun]
    try:
        await asyncio.gather(*(event.wait() for event in begun))
        # Their tokens are work as anybody's; what is measured is the reading that goes on after it.
        await eventually(url, _has_no_work, within_s=120)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            end_s = time.monotonic() + duration_s
            await asyncio.gather(*(call(client, end_s, gaps_s, firsts_s) for _ in range(NUM_CALLERS)))
        resident_mib = _resident_mib(pid)
    finally:
        for task in slow:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*slow, return_exceptions=True)
    return gaps_s, firsts_s, resident_mib


def main() -> int:
    """Measure, print the table and return 1 where the 99th percentile of the gaps grew by more than a tenth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_readers", description=__doc__.partition("\n")[0])
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each condition in a round")
    parser.add_argument("--logprobs", type=int, help="of the slow streams, which are then ten times as large: more than the buffers hold")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    conditions = (0, arguments.readers)
    p99_ms: dict[int, list[float]] = {num_slow: [] for num_slow in conditions}
    first_ms: dict[int, list[float]] = {num_slow: [] for num_slow in conditions}
    memory_mib: dict[int, list[float]] = {num_slow: [] for num_slow in conditions}
    with tempfile.TemporaryDirectory() as name:
        options = ("--local", "--http-port", "0", "--grpc-port", "0", "--log-level", "error", "--max-num-seqs", "64")
        server = ServerProcess(MODEL, *options, log_dir=Path(name))
        try:
            server.wait_ready(START_TIMEOUT_S)
            asyncio.run(round_of(server.http_url, server.pid, 0, 2.0, logprobs=None))
            for _ in range(arguments.rounds):
                for num_slow in conditions:
                    work = round_of(server.http_url, server.pid, num_slow, arguments.seconds, logprobs=arguments.logprobs)
                    gaps_s, firsts_s, resident_mib = asyncio.run(work)
                    p99_ms[num_slow].append(1000 * quantiles(gaps_s, n=100)[98])
                    first_ms[num_slow].append(1000 * quantiles(firsts_s, n=100)[98])
                    memory_mib[num_slow].append(resident_mib)
        finally:
            server.stop()
    rows = [
        [str(num_slow), *(f"{median(values[num_slow]):.{digits}f}" for values, digits in ((p99_ms, 2), (first_ms, 2), (memory_mib, 0)))]
        for num_slow in conditions
    ]
    ratio = median(slow / quiet for slow, quiet in zip(p99_ms[arguments.readers], p99_ms[0], strict=True))
    table = markdown_table(("slow readers", "gap p99 ms", "first chunk p99 ms", "server MiB"), rows)
    note = f"{NUM_CALLERS} callers, medians of {arguments.rounds} rounds; gap p99 beside slow readers: {ratio:.3f} times that alone."
    print(f"{table}\n\n{note}")
    if arguments.write:
        write_results("slow-readers", f"python -m benchmarks.slow_readers --rounds {arguments.rounds}", [table, note])
    return int(ratio > 1.1)


def _has_no_work(samples: list[Sample]) -> bool:
    return total(samples, "attendant_requests_running") + total(samples, "attendant_requests_waiting") == 0


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError("the server has no memory")


if __name__ == "__main__":
    sys.exit(main())
