import os
from pathlib import Path

import pytest

from attendant_server.hosting.cpus import available_cpus, num_threads, server_cpus, threads_per_engine


@pytest.mark.parametrize(
    ("total", "num_engines", "threads"),
    [(1, 1, 1), (2, 1, 2), (2, 3, 1), (3, 1, 3), (4, 1, 3), (4, 3, 1), (8, 2, 4), (16, 1, 15), (16, 50, 1), (0.5, 1, 1)],
)
def test_engines_of_one_process_share_the_cpus_and_big_machines_leave_one_to_the_server(
    total: float, num_engines: int, threads: int
) -> None:
    assert threads_per_engine(total, num_engines) == threads


@pytest.mark.parametrize(("cpus", "threads"), [(0.01, 1), (0.3, 1), (0.95, 1), (1.9, 2), (15.0, 15)])
def test_an_engine_computes_with_as_many_threads_as_it_has_cpus(cpus: float, threads: int) -> None:
    assert num_threads(cpus) == threads


@pytest.mark.parametrize("total", [0.1, 0.5, 1, 2, 3, 4, 64])
def test_something_is_left_for_engines_whatever_the_machine(total: float) -> None:
    assert 0 < server_cpus(total) < total


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_counts_as_well_as_the_cpus_it_may_run_on(files: dict[str, str], limit: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    allowed = len(os.sched_getaffinity(0))
    assert available_cpus(tmp_path) == (allowed if limit is None else min(allowed, limit))
