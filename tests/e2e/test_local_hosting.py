"""The checks that every way of hosting must pass, on one process."""

import pytest

from tests.e2e.cancellation_checks import CancellationChecks
from tests.e2e.error_checks import ErrorChecks
from tests.e2e.greedy_checks import GreedyChecks
from tests.e2e.server_process import ServerProcess


@pytest.fixture(scope="module")
def server(local_server: ServerProcess) -> ServerProcess:
    return local_server


class TestLocalGreedy(GreedyChecks):
    pass


class TestLocalErrors(ErrorChecks):
    pass


class TestLocalCancellation(CancellationChecks):
    pass
