"""The checks that every way of hosting must pass, on Ray Serve with two replicas."""

import pytest

from tests.e2e.cancellation_checks import CancellationChecks
from tests.e2e.error_checks import ErrorChecks
from tests.e2e.greedy_checks import GreedyChecks
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server(ray_server: ServerProcess) -> ServerProcess:
    return ray_server


class TestRayGreedy(GreedyChecks):
    pass


class TestRayErrors(ErrorChecks):
    pass


class TestRayCancellation(CancellationChecks):
    # A replica's figures come to the gateway once a second, with the next heartbeat.
    metrics_age_s = 1.5
