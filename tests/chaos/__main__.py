"""Kills or stops engine replicas, cuts their hosts off, or replaces all by an update, under load, by a seed; no call may fail,
and no answer may differ from a quiet server's.

    python -m tests.chaos [--minutes 10] [--replicas 3] [--callers 64] [--every-s 20] [--fault kill] [--seed 0] [--write]

``--fault node`` serves on several hosts, which are network namespaces: it needs root and iproute2.

Callers go through gRPC (unary, streams, drawn tokens) and HTTP (unary, server-sent events). Answers drawn without a seed are
asked for again by their receipts, later, of a fresh server. Prints a table and exits with 1 where a call failed or an answer
differs.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import httpx

from benchmarks.checkpoints import GPT2_4M, write_gpt2
from benchmarks.results_file import markdown_table, write_results
from tests.chaos.faults import PROCESS_FAULTS, Fault, LostHost, LostProcess, RollingUpdate
from tests.chaos.load import Load, Record, questions, replay
from tests.chaos.nodes import Nodes
from tests.e2e.callers import MODEL, Server
from tests.e2e.metrics import engine_replicas, scrape, total
from tests.e2e.server_process import ServerProcess

_SETTINGS = {"log_level": "error", "kv_cache_memory": "256MiB"}
_REPLACED_WITHIN_S = 120


@dataclass(slots=True)
class Report:
    """What a run found: the load's record, when each fault was and how many seconds it took to be made good, and moved requests."""

    record: Record
    faults_s: list[tuple[float, float]]
    num_moved: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """What went wrong, a line each."""
        return [*self.record.failures, *self.record.differing]

    def table(self) -> str:
        """Return all of it for a reader."""
        record, ends_s = self.record, [(at_s, at_s + max(10.0, good_s)) for at_s, good_s in self.faults_s]
        disturbed = [pause for begin_s, end_s in ends_s for pause in record.pauses_between(begin_s, end_s)]
        quiet = [pause for at_s, pause in record.pauses_s if not any(begin_s <= at_s < end_s for begin_s, end_s in ends_s)]
        good_s = [seconds for _, seconds in self.faults_s]
        rows = [
            ["faults", str(len(self.faults_s))],
            *([f"answers, {way}", f"{count:,}"] for way, count in sorted(record.answers.items())),
            ["failed", str(len(record.failures))],
            ["differing from a quiet server's", str(len(record.differing))],
            ["of them replays by receipt, on a fresh server", str(len(record.drawn))],
            ["requests moved to another replica", f"{self.num_moved:,.0f}"],
            ["a stream's longest pause within 10 s of a fault or until it is made good, p50 / p99 / most, s", _spread(disturbed)],
            ["the same elsewhere", _spread(quiet)],
            ["made good, median / most, s", f"{median(good_s):.1f} / {max(good_s):.1f}" if good_s else "-"],
        ]
        return markdown_table(["", ""], rows)


async def _disturb(server: Server, fault: Fault, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Do harm again and again; return when (monotonic) and how many seconds it took until all replicas were there again."""
    rng = random.Random(arguments.seed)
    end_s = time.monotonic() + 60 * arguments.minutes
    faults_s: list[tuple[float, float]] = []
    while time.monotonic() + arguments.every_s < end_s:
        await asyncio.sleep(arguments.every_s)
        before = engine_replicas(await scrape(server.http_url))
        begun_s = time.monotonic()
        done = await fault.strike(rng)
        await _replacement(server, before, arguments.replicas)
        faults_s.append((begun_s, time.monotonic() - begun_s))
        print(f"{done}: made good after {faults_s[-1][1]:.1f} s", flush=True)
        await fault.mend()
    return faults_s


async def _replacement(server: Server, before: set[str], num_replicas: int) -> None:
    """Wait until as many replicas as wanted report, one of them new."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < _REPLACED_WITHIN_S:
        # An update replaces the gateway too, and Serve's proxy may still send a scrape to the one that has gone.
        with contextlib.suppress(httpx.HTTPError):
            now = engine_replicas(await scrape(server.http_url))
            if len(now) == num_replicas and now - before:
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"no replacement within {_REPLACED_WITHIN_S} s\n{server.stderr[-2000:]}")


async def _run(arguments: argparse.Namespace, server: Server, fault: Fault) -> Report:
    load = Load(server, questions(random.Random(arguments.seed), arguments.tokens), num_callers=arguments.callers)
    asking = asyncio.ensure_future(load.run())
    faults_s = await _disturb(server, fault, arguments)
    load.is_ending = True
    await asking
    return Report(load.record, faults_s, total(await scrape(server.http_url), "attendant_stream_failovers_total"))


def _serve_and_disturb(arguments: argparse.Namespace, model: Path, folder: Path) -> Report:
    if arguments.fault == "node":
        with Nodes(MODEL, model, num_replicas=arguments.replicas, flags=_SETTINGS, folder=folder) as nodes:
            nodes.wait_ready(_REPLACED_WITHIN_S)
            return asyncio.run(_run(arguments, nodes, LostHost(nodes)))
    settings = {**_SETTINGS, "replicas": arguments.replicas}
    with _server(model, settings, folder) as server:
        fault = RollingUpdate(server, model, settings) if arguments.fault == "update" else LostProcess(server, arguments.fault)
        return asyncio.run(_run(arguments, server, fault))


@contextlib.contextmanager
def _server(model: Path, settings: Mapping[str, object], folder: Path, *flags: str) -> Iterator[ServerProcess]:
    given = (text for name, value in settings.items() for text in ("--" + name.replace("_", "-"), str(value)))
    folder.mkdir(exist_ok=True)
    server = ServerProcess(f"{MODEL}={model}", "--http-port", "0", "--grpc-port", "0", *given, *flags, log_dir=folder)
    try:
        server.wait_ready(_REPLACED_WITHIN_S)
        yield server
    finally:
        server.stop()


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
    parser.add_argument("--fault", choices=(*PROCESS_FAULTS, "node", "update"), default="kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
        model = write_gpt2(Path(folder) / "model", GPT2_4M)
        report = _serve_and_disturb(arguments, model, Path(folder))
        with _server(model, _SETTINGS, Path(folder) / "fresh", "--local") as server:
            report.record.differing += asyncio.run(replay(server, report.record.drawn))
    table = report.table()
    print(f"\n{table}")
    for line in report.wrong[:20]:
        print("WRONG", line)
    if arguments.write:
        write_results("chaos-" + arguments.fault, "python -m tests.chaos " + " ".join(sys.argv[1:]), [table])
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
