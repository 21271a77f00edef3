"""How much memory is left on this machine, as the kernel, a container's limit and a GPU's driver tell it."""

from pathlib import Path

import torch

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes(device: torch.device) -> int:
    """Return the memory that can still be taken on ``device`` without pushing anything out."""
    if device.type == "cuda":
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
    try:
        entries = [line.partition("::") for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        entries = []
    name = next((path for hierarchy, _, path in entries if hierarchy == "0"), "/")
    group = cgroup / name.lstrip("/")
    left: list[int | None] = []
    while group == cgroup or cgroup in group.parents:
        left.append(_left(group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file"))
        if group == cgroup:
            break
        group = group.parent
    return left


def _cgroup_v1_left(cgroup: Path) -> list[int | None]:
    group = cgroup / "memory"
    return [
        _left(group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", group / "memory.stat", "total_inactive_file"),
    ]


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
