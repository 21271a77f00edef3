"""The pool of threads: jobs and barriers that lose nobody, resizing, callers at once, and fork."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.kernels.cpu.weights import PackedWeight

NUM_JOBS = 3000


@pytest.fixture
def library() -> Iterator[KernelLibrary]:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the CPU kernels are not built here")
    before = loaded.num_threads
    yield loaded
    loaded.set_num_threads(before)


def make_job(library: KernelLibrary, seed: int = 0) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """Return a job with a barrier inside (its input is converted to bfloat16 first) and what it must give."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-4, 5, (320, 40), generator=generator).float()
    x = torch.randint(-4, 5, (7, 40), generator=generator).float()
    product = NativeLinear(library, PackedWeight(library, WeightFormat.BF16, [(weight, None)]))
    return lambda: product(x), x @ weight.T


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_thousands_of_tiny_jobs_with_barriers_are_all_done(library: KernelLibrary, num_threads: int) -> None:
    library.set_num_threads(num_threads)
    assert library.num_threads == num_threads
    job, expected = make_job(library)
    # More threads than cores give way to each other at every barrier, so fewer jobs do.
    for _ in range(NUM_JOBS if num_threads <= 2 else NUM_JOBS // 20):
        assert torch.equal(job(), expected)


def test_a_job_after_the_workers_fell_asleep_is_done(library: KernelLibrary) -> None:
    library.set_num_threads(2)
    job, expected = make_job(library)
    for _ in range(5):
        job()
        names = [(Path("/proc/self/task") / task / "wchan") for task in os.listdir("/proc/self/task")]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not _is_any_worker_asleep():
            os.sched_yield()
        assert _is_any_worker_asleep(), names
        assert torch.equal(job(), expected)


def _is_any_worker_asleep() -> bool:
    for task in Path("/proc/self/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        if name.startswith("attendant-cpu") and rest.split()[0] == "S":
            return True
    return False


def test_the_pool_changes_its_size_between_jobs(library: KernelLibrary) -> None:
    job, expected = make_job(library)
    for num_threads in [2, 1, 4, 3, 2, 5, 1, 2] * 5:
        library.set_num_threads(num_threads)
        for _ in range(3):
            assert torch.equal(job(), expected)
    library.set_num_threads(0)
    assert library.num_threads == 1


def test_callers_at_once_wait_their_turn_and_get_their_own_results(library: KernelLibrary) -> None:
    library.set_num_threads(2)
    wrong: list[int] = []

    def call(seed: int) -> None:
        job, expected = make_job(library, seed)
        wrong.extend(seed for _ in range(NUM_JOBS // 6) if not torch.equal(job(), expected))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert wrong == []


def test_a_child_of_fork_has_a_pool_of_its_own(tmp_path: Path) -> None:
    if load_library() is None:
        pytest.skip("the CPU kernels are not built here")
    # In a process of its own: this one has threads that no fork should meet.
    program = """
import os, sys, threading
import torch
from attendant_engine.kernels.cpu.library import load_library
from tests.engine.kernels.test_pool import make_job

library = load_library()
library.set_num_threads(2)
job, expected = make_job(library)
assert torch.equal(job(), expected)
is_over = threading.Event()

def keep_busy():
    busy, right = make_job(library, 1)
    while not is_over.is_set():
        assert torch.equal(busy(), right)

other = threading.Thread(target=keep_busy)
other.start()
for _ in range(8):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(torch.equal(job(), expected) for _ in range(8)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(job(), expected)
is_over.set()
other.join()
"""
    path = [entry for entry in sys.path if entry]
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.getcwd()])}
    )
