"""Available memory is the least that the kernel or any enclosing control group leaves."""

from pathlib import Path

import pytest

from attendant_engine.machine import available_host_bytes


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Make a proc file system that says 1,000,000 KiB are available to this process in group /pod/box."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 2000000 kB\nMemFree: 10 kB\nMemAvailable: 1000000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/pod/box\n")
    return tmp_path / "proc"


def _group(path: Path, limit: str, used: int, droppable: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(limit + "\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\n")


def test_without_control_groups_the_kernels_figure_stands(proc: Path, tmp_path: Path) -> None:
    assert available_host_bytes(proc, tmp_path / "none") == 1_024_000_000


def test_the_tightest_enclosing_group_decides_and_droppable_pages_do_not_count(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    _group(groups / "pod" / "box", "max", 10)
    _group(groups / "pod", "5000", 3000, droppable=1000)
    assert available_host_bytes(proc, groups) == 3000
    _group(groups / "pod" / "box", "4000", 3500)
    assert available_host_bytes(proc, groups) == 500


def test_a_container_sees_its_own_group_at_the_root(proc: Path, tmp_path: Path) -> None:
    _group(tmp_path / "cgroup", "2000", 500)
    assert available_host_bytes(proc, tmp_path / "cgroup") == 1500


def test_version_1_groups_count_too(proc: Path, tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("9000\n")
    (group / "memory.usage_in_bytes").write_text("1000\n")
    (group / "memory.stat").write_text("total_inactive_file 100\n")
    assert available_host_bytes(proc, tmp_path / "cgroup") == 8100


def test_a_group_over_its_limit_leaves_nothing(proc: Path, tmp_path: Path) -> None:
    _group(tmp_path / "cgroup", "100", 500)
    assert available_host_bytes(proc, tmp_path / "cgroup") == 0


def test_this_machine_has_memory() -> None:
    assert available_host_bytes() > 0
