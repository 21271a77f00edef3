"""An hour of mixed load, and what it leaves behind: ``python -m benchmarks.soak [--minutes 60] [--rate 8] [--replicas N]``.

Completions on four ways with answers checked, embeddings, labels, few-shot, callers who leave halfway, callers who are refused,
and a new connection for every tenth. Every process of the server is looked at all along: resident memory, file descriptors,
threads, and the tasks of the gateway's event loop. Slopes are least squares over the last two thirds of the time.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import linear_regression

import httpx

from benchmarks.overload import resident_mib
from benchmarks.results_file import markdown_table, write_results
from tests.e2e.callers import MODEL, Caller, open_callers
from tests.e2e.metrics import scrape, total
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import Question

ENCODER = "attendant-minilm"
ADAPTER = "attendant-minilm-sentiment"
START_TIMEOUT_S = 180
SAMPLE_EVERY_S = 10.0
SETTLED_FROM = 1 / 3
TASKS_METRIC = "attendant_gateway_tasks"
_TEXTS = ("A fine story, well told.", "It broke on the second day.", "Where is the station?", "The cat sat in the sun and slept.")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process held at a moment."""

    at_s: float
    resident_mib: float
    num_descriptors: int
    num_threads: int


@dataclass(slots=True)
class Findings:
    """Readings by process, tasks of the gateway's loop over time, and what callers met with."""

    readings: dict[str, list[Reading]] = field(default_factory=dict)
    tasks: list[tuple[float, float]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Callers:
    """The kinds of calls; each is one call from its beginning to its end."""

    def __init__(self, ways: dict[str, Caller], client: httpx.AsyncClient, url: str, seed: int) -> None:
        self._ways = ways
        self._client = client
        self._url = url
        self._rng = Random(seed)
        self.kinds: tuple[tuple[str, Callable[[], Awaitable[None]], int], ...] = (
            *((way, lambda way=way: self._complete(way), 3) for way in ways),
            ("left halfway", self._leave, 3),
            ("refused", self._be_refused, 2),
            ("own connection", self._connect_anew, 2),
            ("embeddings", lambda: self._post("/v1/embeddings", {"model": ENCODER, "input": self._texts()}), 3),
            ("classify", lambda: self._post("/v1/classify", {"model": ADAPTER, "input": self._texts()}), 2),
            ("few-shot", self._few_shot, 1),
        )

    async def _complete(self, way: str) -> None:
        question = Question(start=self._rng.randrange(200), length=self._rng.randint(4, 48))
        question.check(await self._ways[way].greedy(question.prompt, question.length))

    async def _leave(self) -> None:
        body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "stream": True}
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            num_chunks = self._rng.randint(1, 20)
            async for _ in response.aiter_raw():
                num_chunks -= 1
                if not num_chunks:
                    break

    async def _be_refused(self) -> None:
        path, body = self._rng.choice(
            (
                ("/v1/completions", {"model": "no-such-model", "prompt": "x"}),
                ("/v1/completions", {"model": MODEL, "prompt": [3] * 4000}),
                ("/v1/embeddings", {"model": MODEL}),
            )
        )
        response = await self._client.post(path, json=body)
        assert 400 <= response.status_code < 500, response.text

    async def _connect_anew(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            (await client.get("/v1/models")).raise_for_status()

    async def _few_shot(self) -> None:
        examples = [{"input": text, "output": label} for text, label in zip(_TEXTS[:2], ("good", "bad"), strict=True)]
        await self._post("/v1/few-shot", {"model": MODEL, "queries": _TEXTS[2:], "examples": examples, "labels": ["good", "bad"]})

    async def _post(self, path: str, body: dict[str, object]) -> None:
        (await self._client.post(path, json=body)).raise_for_status()

    def _texts(self) -> list[str]:
        return self._rng.choices(_TEXTS, k=self._rng.randint(1, 8))


async def soak(server: ServerProcess, *, minutes: float, rate: float, seed: int = 0) -> Findings:
    """Call ``rate`` times a second for ``minutes``, whatever the answers take, and look at the server every ten seconds."""
    findings = Findings()
    rng = Random(seed)
    begun_s = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    calls: set[asyncio.Task[None]] = set()
    async with (
        open_callers(server) as ways,
        httpx.AsyncClient(base_url=server.http_url, timeout=60, limits=limits) as client,
    ):
        callers = Callers(ways, client, server.http_url, seed)
        names, kinds, shares = zip(*callers.kinds, strict=True)
        by_name = dict(zip(names, kinds, strict=True))
        looking = asyncio.ensure_future(_look(server, findings, begun_s))
        while time.monotonic() - begun_s < 60 * minutes:
            await asyncio.sleep(rng.expovariate(rate))
            name = rng.choices(names, shares)[0]
            call = asyncio.ensure_future(_note(findings, name, by_name[name]))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    return findings


async def _note(findings: Findings, name: str, kind: Callable[[], Awaitable[None]]) -> None:
    findings.calls[name] += 1
    try:
        await kind()
    except Exception as error:  # whatever a caller can meet with is what is looked for
        findings.failures.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")


async def _look(server: ServerProcess, findings: Findings, begun_s: float) -> None:
    while True:
        at_s = time.monotonic() - begun_s
        for pid, command in {server.pid: "attendant serve", **descendants(server.pid)}.items():
            with suppress(OSError, RuntimeError):  # a process may end meanwhile
                findings.readings.setdefault(f"{_short(command)} ({pid})", []).append(_read(pid, at_s))
        findings.tasks.append((at_s, total(await scrape(server.http_url), TASKS_METRIC)))
        await asyncio.sleep(SAMPLE_EVERY_S)


def _read(pid: int, at_s: float) -> Reading:
    process = Path(f"/proc/{pid}")
    return Reading(at_s, resident_mib(pid), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))


def _short(command: str) -> str:
    """Return the name of a process's script, or of its program where it has none."""
    words = command.split() or [""]
    return next((Path(word).name for word in words if word.endswith(".py")), Path(words[0]).name)


def rows(findings: Findings, duration_s: float) -> list[list[str]]:
    """Return a row a process that lived through all of the settled time, and one for the tasks."""
    found = []
    for name, readings in sorted(findings.readings.items()):
        settled = [reading for reading in readings if reading.at_s >= SETTLED_FROM * duration_s]
        if readings[0].at_s > SETTLED_FROM * duration_s or not settled or settled[-1].at_s < duration_s - 3 * SAMPLE_EVERY_S:
            continue  # it came or went meanwhile
        memory = [(reading.at_s, reading.resident_mib) for reading in settled]
        found.append(
            [
                name,
                f"{memory[0][1]:.1f}",
                f"{memory[-1][1]:.1f}",
                f"{_slope_an_hour(memory):+.2f}",
                f"{100 * _slope_an_hour(memory) / memory[0][1]:+.2f} %",
                _course([reading.num_descriptors for reading in settled]),
                _course([reading.num_threads for reading in settled]),
            ]
        )
    tasks = [round(number) for at_s, number in findings.tasks if at_s >= SETTLED_FROM * duration_s]
    return [*found, ["tasks of the gateway's event loop", "", "", "", "", _course(tasks), ""]]


def _slope_an_hour(points: Sequence[tuple[float, float]]) -> float:
    times, values = zip(*points, strict=True)
    return 3600 * linear_regression(times, values).slope


def _course(values: Sequence[int]) -> str:
    """First and last with the greatest between: ``40 to 41 (most 55)``."""
    return f"{values[0]} to {values[-1]} (most {max(values)})"


_HEADING = ["process", "resident MiB, settled", "at the end", "MiB an hour", "of it", "descriptors", "threads"]


def main() -> int:
    """Run, print the table, and return 1 where a call failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=8.0, help="calls a second, at random times")
    parser.add_argument("--replicas", type=int, help="serve on Ray with this many engines a model; by default one process")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    hosting = ("--local",) if arguments.replicas is None else ("--replicas", str(arguments.replicas))
    # Under /tmp itself: Ray's sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder:
        flags = (*hosting, "--http-port", "0", "--grpc-port", "0", "--log-level", "error", "--kv-cache-memory", "16MiB")
        server = ServerProcess(MODEL, ENCODER, *flags, log_dir=Path(folder))
        try:
            server.wait_ready(START_TIMEOUT_S)
            findings = asyncio.run(soak(server, minutes=arguments.minutes, rate=arguments.rate))
        finally:
            server.stop()
    calls = ", ".join(f"{name} {count:,}" for name, count in findings.calls.items())
    about = f"{findings.calls.total():,} calls ({calls}), {len(findings.failures)} failed. Settled: after a third of the time."
    table = markdown_table(_HEADING, rows(findings, 60 * arguments.minutes))
    print(about, table, *findings.failures[:20], sep="\n")
    if arguments.write:
        where = "local" if arguments.replicas is None else "ray"
        write_results(f"soak-{where}", "python -m benchmarks.soak " + " ".join(sys.argv[1:]), [about, table])
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
