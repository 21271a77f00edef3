"""An update of a running application replaces every replica, the gateway too, and no call fails meanwhile."""

from pathlib import Path

import pytest

from tests.e2e.callers import MODEL
from tests.e2e.conftest import RAY_SETTINGS
from tests.e2e.metrics import are_two_there, eventually
from tests.e2e.processes import serve_replicas
from tests.e2e.rolling_update import update
from tests.e2e.server_process import ServerProcess
from tests.e2e.steady_calls import steady_calls

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.changes_ray_server, pytest.mark.slow, pytest.mark.timeout(240)]

_MODEL_PATH = Path(__file__).parents[2] / "models" / MODEL
_UPDATE_WITHIN_S = 120


async def test_no_call_fails_while_every_replica_is_replaced(ray_server: ServerProcess) -> None:
    await eventually(ray_server.http_url, are_two_there, within_s=_UPDATE_WITHIN_S)
    before = serve_replicas(ray_server.pid)
    assert len(before) == 3
    async with steady_calls(ray_server, num_callers=8):
        await update(ray_server, _MODEL_PATH, {**RAY_SETTINGS, "max_queue": 777}, within_s=_UPDATE_WITHIN_S)
    assert not before & serve_replicas(ray_server.pid)
