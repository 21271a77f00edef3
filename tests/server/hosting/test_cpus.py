import pytest

from attendant_server.hosting.cpus import num_threads, server_cpus


@pytest.mark.parametrize(("cpus", "threads"), [(0.01, 1), (0.3, 1), (0.95, 1), (1.9, 2), (15.0, 15)])
def test_an_engine_computes_with_as_many_threads_as_it_has_cpus(cpus: float, threads: int) -> None:
    assert num_threads(cpus) == threads


@pytest.mark.parametrize("total", [0.1, 0.5, 1, 2, 3, 4, 64])
def test_something_is_left_for_engines_whatever_the_machine(total: float) -> None:
    assert 0 < server_cpus(total) < total
