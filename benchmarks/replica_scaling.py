"""One, two and four engine replicas on Ray, each with the same share of a core: ``python -m benchmarks.replica_scaling``.

The share is a quota of a control group, so that more replicas than cores can be compared; it needs root. All replicas are on
one core, so that each computes with one thread; callers, gateway and proxy have all cores. The table has tokens/s, the part of
what as many lone replicas would give, and what of a core the gateway used.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bench_command import run_bench
from benchmarks.checkpoints import GPT2_4M, write_gpt2
from benchmarks.results_file import markdown_table, spread, write_results
from benchmarks.servers import RunningServer, serve
from tests.e2e.processes import descendants

_PERIOD_US = 10_000
"""Of the quota: about two decode steps, so that a replica never stands still for long."""
_CGROUPS = Path("/sys/fs/cgroup")
_ALL_CORES = os.sched_getaffinity(0)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def core_share(pid: int, share: float) -> Iterator[None]:
    """Give a process no more than ``share`` of a core while the block lasts. Raises ``OSError`` where that is not ours to do."""
    is_v1 = (_CGROUPS / "cpu").is_dir()
    folder = (_CGROUPS / "cpu" if is_v1 else _CGROUPS) / f"attendant-{pid}"
    quota = round(share * _PERIOD_US)
    folder.mkdir()
    try:
        if is_v1:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(left)
        folder.rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one number of replicas did: tokens/s, a value a repeat, and seconds of the gateway's processor time a second."""

    tokens_per_s: list[float]
    gateway_cores: float


def measure(server: RunningServer, *, replicas: int, arguments: argparse.Namespace) -> Figures:
    """Load a server whose replicas have their shares."""
    processes = descendants(server.pid)
    engines = [pid for pid, command in processes.items() if ":engine-m" in command]
    (gateway,) = (pid for pid, command in processes.items() if ":gateway" in command)
    assert len(engines) == replicas, processes
    for pid in {os.getpid(), *processes} - {*engines}:
        _allow_all_cores(pid)
    with _all_shares(engines, arguments.core_share):
        tokens_per_s = []
        for repeat in range(arguments.repeats + 1):
            begun_s, used_s = time.monotonic(), _processor_s(gateway)
            report = run_bench(
                server.grpc_url,
                model="m",
                concurrency=arguments.callers * replicas,
                num_requests=arguments.requests * replicas,
                prompt_tokens=32,
                max_tokens=arguments.max_tokens,
                seed=repeat,
                warmup=1,
            )
            gateway_cores = (_processor_s(gateway) - used_s) / (time.monotonic() - begun_s)
            tokens_per_s.append(report.tokens_per_s)
    return Figures(tokens_per_s=tokens_per_s[1:], gateway_cores=gateway_cores)  # the first fills what is empty at a start


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Let what is started in the block have one core, which it takes for the whole machine."""
    os.sched_setaffinity(0, {min(_ALL_CORES)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, _ALL_CORES)


def _allow_all_cores(pid: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):  # it may have ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), _ALL_CORES)


@contextmanager
def _all_shares(pids: list[int], share: float) -> Iterator[None]:
    if not pids:
        yield
        return
    with core_share(pids[0], share), _all_shares(pids[1:], share):
        yield


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> None:
    """Serve with each number of replicas in turn, measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--core-share", type=float, default=0.2, help="of a core, for each replica (default %(default)s)")
    parser.add_argument("--callers", type=int, default=8, help="for each replica")
    parser.add_argument("--requests", type=int, default=32, help="of a repeat, for each replica")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    rows: list[list[str]] = []
    alone = 0.0
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "checkpoint", GPT2_4M)
        for replicas in arguments.replicas:
            flags = ("--replicas", str(replicas), "--kv-cache-memory", "128MiB", "--log-level", "error", f"m={checkpoint}")
            with _on_one_core(), serve(*flags, log=Path(folder) / f"{replicas}.log") as server:
                figures = measure(server, replicas=replicas, arguments=arguments)
            rate = median(figures.tokens_per_s)
            alone = alone or rate / replicas
            rows.append([str(replicas), spread(figures.tokens_per_s), f"{rate / (replicas * alone):.3f}", f"{figures.gateway_cores:.2f}"])
            print(*rows[-1], sep="  ", flush=True)
    about = (
        f"A GPT-2 of {GPT2_4M['n_layer']} layers of {GPT2_4M['n_embd']}, each replica with {arguments.core_share:g} of a core, "
        f"{arguments.callers} gRPC streams for each, prompts of 32 tokens, {arguments.max_tokens} generated; {os.cpu_count()} cores in all."
    )
    table = markdown_table(["replicas", "tokens/s", "of as many alone", "cores of the gateway"], rows)
    print(f"\n{about}\n\n{table}")
    if arguments.write:
        write_results("replica-scaling", "python -m benchmarks.replica_scaling " + " ".join(sys.argv[1:]), [about, table])


if __name__ == "__main__":
    main()
