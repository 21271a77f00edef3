"""What this machine has for us: memory and cores, as the kernel, a container's limits and a GPU's driver tell it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_cores(proc: Path = _PROC, cgroup: Path = _CGROUP) -> float:
    """Return how many cores this process may use: those it may run on, or less where a control group around it has a quota.

    Reads control groups of version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``); a quota need not be a whole number.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota_v2(group) for group in _groups(cgroup, _group_name(proc, ""))]
    quotas += [_quota_v1(group) for group in _groups(cgroup / "cpu", _group_name(proc, "cpu"))]
    return min(float(allowed), *quotas)


def available_memory_bytes(device: "torch.device") -> int:
    """Return the memory that can still be taken on ``device`` without pushing anything out."""
    if device.type == "cuda":
        import torch  # here alone: who asks for cores has no use for it

        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes
    return available_host_bytes()


def available_host_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return the least of what the kernel calls available and what each enclosing control group still allows.

    Reads ``meminfo`` and control groups of version 2 and 1; 0 where there is neither.
    """
    limits = [_meminfo_available(proc), *_cgroup_v2_left(proc, cgroup), *_cgroup_v1_left(cgroup)]
    return max(0, min((limit for limit in limits if limit is not None), default=0))


def _meminfo_available(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_v2_left(proc: Path, cgroup: Path) -> list[int | None]:
    """Return what is left in this process's group and in every group around it."""
    return [
        _left(group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file")
        for group in _groups(cgroup, _group_name(proc, ""))
    ]


def _cgroup_v1_left(cgroup: Path) -> list[int | None]:
    group = cgroup / "memory"
    return [
        _left(group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", group / "memory.stat", "total_inactive_file"),
    ]


def _group_name(proc: Path, controller: str) -> str:
    """Return this process's group: of version 1 for ``controller``, of version 2 for none."""
    try:
        entries = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return "/"
    return next((path for _, controllers, path in entries if controller in controllers.split(",")), "/")


def _groups(root: Path, name: str) -> Iterator[Path]:
    """Yield the group ``name`` and every one around it, up to ``root``; inside a container the root is its own group."""
    group = root / name.lstrip("/")
    while group != root and root in group.parents:
        yield group
        group = group.parent
    yield root


def _quota_v2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(group: Path) -> float:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return math.inf if quota < 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _left(limit_file: Path, usage_file: Path, stat_file: Path, reclaimable: str) -> int | None:
    """Return limit less usage; file pages that the kernel can drop at once do not count as used."""
    try:
        limit = limit_file.read_text().strip()
        if limit == "max":
            return None
        used_bytes = int(usage_file.read_text())
        for line in stat_file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable:
                used_bytes -= int(value)
        return int(limit) - used_bytes
    except (OSError, ValueError):
        return None
