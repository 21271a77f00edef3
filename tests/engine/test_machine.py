"""Available memory and cores are the least that the kernel or any enclosing control group leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attendant_engine.machine import available_cores, available_host_bytes


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


def _available_cores(proc: Path, cgroup: Path, num_allowed: int, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_allowed)))
    return available_cores(proc, cgroup)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8.0),
        ({"pod/box/cpu.max": "150000 100000\n"}, 1.5),
        ({"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"}, 4.0),
        ({"pod/box/cpu.max": "900000 100000\n", "cpu.max": "250000 100000\n"}, 2.5),
        ({"other/cpu.max": "50000 100000\n", "pod/box/cpu.max": "nonsense\n"}, 8.0),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8.0),
        ({"cpu/old/cpu.cfs_quota_us": "300000\n", "cpu/old/cpu.cfs_period_us": "100000\n"}, 3.0),
    ],
)
def test_cores_are_those_that_we_may_run_on_or_less_by_the_tightest_quota(
    files: dict[str, str], cores: float, proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/old\n1:name=systemd:/x\n0::/pod/box\n")
    _write(tmp_path / "cgroup", files)
    assert _available_cores(proc, tmp_path / "cgroup", 8, monkeypatch) == cores


def test_fewer_allowed_cores_than_the_quota_decide(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "cgroup", {"pod/box/cpu.max": "800000 100000\n"})
    assert _available_cores(proc, tmp_path / "cgroup", 2, monkeypatch) == 2.0


def test_an_affinity_is_obeyed() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "import sys; from attendant_engine.machine import available_cores; print(available_cores() <= 1.0, 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
