"""How many threads engines compute with, and how torch's wait for each other: a moment of spinning, then sleep.

All engines on the native kernels take turns on one pool of this process; an engine on torch has threads of its own.
The command line sets how to wait before torch is loaded, and the processes that Ray starts inherit it; a Kubernetes
deployment sets the same.

OpenMP's default is to spin for milliseconds. Where anything else wants the same cores (a gateway, a client, a
neighbour), the spinners take its time and every product waits for the scheduler: on two cores with other work on them, a
decode step of a 124M model took 500 to 760 ms at the default and 28 to 54 ms with this.
"""

import math
from collections.abc import MutableMapping

from attendant_server.hosting.cpus import num_threads

_OWN_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_policy() -> dict[str, str]:
    """Variables of GNU's OpenMP, which torch's wheels bring: about ten microseconds of spinning."""
    return {"GOMP_SPINCOUNT": "2000"}


def apply_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Set the variables, unless the operator made a choice of their own."""
    if not any(name in environment for name in _OWN_CHOICES):
        environment.update(wait_policy())


def operator_threads() -> int:
    """Return how many threads torch would take by itself: the cores, or less where ``OMP_NUM_THREADS`` says so."""
    import torch

    return torch.get_num_threads()


def size_compute_threads(cpus: float, num_engines: int, *, most: int | None = None) -> int:
    """Size the native kernels' pool to ``cpus``; return the threads of each of ``num_engines`` where it computes with torch.

    Neither is more than ``most``. Call it before any engine of this process is loaded.
    """
    # Here: the command line imports this module before it has set how torch's threads wait.
    from attendant_engine.kernels.cpu.library import load_library

    pool, own = num_threads(cpus), num_threads(math.floor(cpus / num_engines * 100) / 100)
    library = load_library()
    if library is not None:
        library.set_num_threads(pool if most is None else min(most, pool))
    return own if most is None else min(most, own)
