"""Who gets how many of the CPUs that there are for us.

Threads of a computation wait for each other by spinning: as soon as two of them share a core, each step waits for the
scheduler, and a step of milliseconds takes a tenth of a second. So never more threads than CPUs, over all engines, and
on machines of four CPUs and more one is left to gateway, transports and proxy.
"""

_SERVER_CPUS_FROM = 4
_SMALL_SERVER_CPUS = 0.1


def server_cpus(total: float) -> float:
    """Return what a machine of ``total`` CPUs keeps for everything that is no engine."""
    return 1.0 if total >= _SERVER_CPUS_FROM else min(_SMALL_SERVER_CPUS, total / 2)


def num_threads(cpus: float) -> int:
    """Return how many threads an engine with that many CPUs computes with."""
    return max(1, round(cpus))
