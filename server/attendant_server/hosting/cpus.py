"""How many CPUs there are for us, and who gets how many of them.

Threads of a computation wait for each other by spinning: as soon as two of them share a core, each step waits for the
scheduler, and a step of milliseconds takes a tenth of a second. So never more threads than CPUs, over all engines, and
on machines of four CPUs and more one is left to gateway, transports and proxy.
"""

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_SERVER_CPUS_FROM = 4
_SMALL_SERVER_CPUS = 0.1


def server_cpus(total: float) -> float:
    """Return what a machine of ``total`` CPUs keeps for everything that is no engine."""
    return 1.0 if total >= _SERVER_CPUS_FROM else min(_SMALL_SERVER_CPUS, total / 2)


def num_threads(cpus: float) -> int:
    """Return how many threads an engine with that many CPUs computes with."""
    return max(1, round(cpus))


def threads_per_engine(total: float, num_engines: int) -> int:
    """Return how many threads each engine of one process computes with."""
    return num_threads(math.floor((total - server_cpus(total)) / num_engines * 100) / 100)


def available_cpus(cgroup: Path = _ROOT) -> float:
    """Return how many CPUs this process may use: those it may run on, or less where its container has a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(float(allowed), _quota(cgroup))


def _quota(cgroup: Path) -> float:
    """Return the container's quota in CPUs (cgroup v2's cpu.max, then v1's cfs files), infinite where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else float(quota) / float(period)
