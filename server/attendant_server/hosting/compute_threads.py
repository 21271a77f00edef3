"""How the engine's compute threads wait for each other: a moment of spinning, then sleep.

The command line sets this before torch is loaded, and the processes that Ray starts inherit it; a Kubernetes deployment
sets the same.

OpenMP's default is to spin for milliseconds. Where anything else wants the same cores (a gateway, a client, a
neighbour), the spinners take its time and every product waits for the scheduler: on two cores with other work on them, a
decode step of a 124M model took 500 to 760 ms at the default and 28 to 54 ms with this.
"""

from collections.abc import MutableMapping

_OWN_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_policy() -> dict[str, str]:
    """Variables of GNU's OpenMP, which torch's wheels bring: about ten microseconds of spinning."""
    return {"GOMP_SPINCOUNT": "2000"}


def apply_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Set the variables, unless the operator made a choice of their own."""
    if not any(name in environment for name in _OWN_CHOICES):
        environment.update(wait_policy())
