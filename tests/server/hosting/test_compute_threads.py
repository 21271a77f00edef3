"""Compute threads are never more than the cores, and sleep when they wait, unless the operator says otherwise."""

import subprocess
import sys

import pytest

from attendant_server.hosting.compute_threads import apply_wait_policy, wait_policy

_SIZE = """
import sys, torch
from attendant_engine.kernels.cpu.library import load_library
from attendant_server.hosting.compute_threads import operator_threads, size_compute_threads
print(size_compute_threads(float(sys.argv[1]), int(sys.argv[2]), most=operator_threads() if sys.argv[3] == "most" else None))
library = load_library()
print("none" if library is None else library.num_threads)
"""


def _sizes(cpus: float, num_engines: int, omp_num_threads: int, *, is_bounded: bool) -> tuple[int, int | None]:
    """Return the threads of an engine on torch and the size of the pool, as a fresh process sets them."""
    environment = {"OMP_NUM_THREADS": str(omp_num_threads), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", _SIZE, str(cpus), str(num_engines), "most" if is_bounded else "any"]
    torch_threads, pool = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return int(torch_threads), None if pool == "none" else int(pool)


@pytest.mark.parametrize(
    ("cpus", "num_engines", "threads"),
    [(1.9, 1, (2, 2)), (1.9, 3, (1, 2)), (3.0, 1, (3, 3)), (7.0, 2, (4, 7)), (15.0, 50, (1, 15)), (0.25, 1, (1, 1))],
)
def test_engines_on_torch_share_the_cpus_and_native_ones_take_turns_on_all_of_them(
    cpus: float, num_engines: int, threads: tuple[int, int]
) -> None:
    torch_threads, pool = _sizes(cpus, num_engines, 1, is_bounded=False)
    assert torch_threads == threads[0]
    assert pool in (threads[1], None)


def test_an_operators_number_of_threads_is_not_exceeded() -> None:
    assert _sizes(8.0, 1, 1, is_bounded=True) in ((1, 1), (1, None))


def test_an_environment_without_a_choice_gets_ours() -> None:
    environment = {"PATH": "/bin"}
    apply_wait_policy(environment)
    assert environment == {"PATH": "/bin"} | wait_policy()


def test_an_operators_choice_stays() -> None:
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(own)
        apply_wait_policy(environment)
        assert environment == own
