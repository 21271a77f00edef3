"""An update of a running application replaces every replica, the gateway too, and no call fails meanwhile."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.callers import MODEL, WAYS, open_callers
from tests.e2e.conftest import RAY_SETTINGS
from tests.e2e.metrics import are_two_there, eventually
from tests.e2e.processes import serve_replicas
from tests.e2e.rolling_update import update
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import WHOLE

pytestmark = [pytest.mark.ray, pytest.mark.changes_ray_server, pytest.mark.slow, pytest.mark.timeout(240)]

_MODEL_PATH = Path(__file__).parents[2] / "models" / MODEL
_UPDATE_WITHIN_S = 120
_CALLERS = 8


async def test_no_call_fails_while_every_replica_is_replaced(ray_server: ServerProcess) -> None:
    await eventually(ray_server.http_url, are_two_there, within_s=_UPDATE_WITHIN_S)
    before = serve_replicas(ray_server.pid)
    assert len(before) == 3
    is_updated, num_answers = asyncio.Event(), 0
    async with open_callers(ray_server) as callers:

        async def call_on(way: str) -> None:
            nonlocal num_answers
            while not is_updated.is_set():
                WHOLE.check(await callers[way].greedy(WHOLE.prompt, WHOLE.length))
                num_answers += 1

        async with asyncio.TaskGroup() as group:
            for number in range(_CALLERS):
                group.create_task(call_on(WAYS[number % len(WAYS)]))
            try:
                await update(ray_server, _MODEL_PATH, {**RAY_SETTINGS, "max_queue": 777}, within_s=_UPDATE_WITHIN_S)
            finally:
                is_updated.set()
        assert num_answers >= _CALLERS
        WHOLE.check(await callers["http"].greedy(WHOLE.prompt, WHOLE.length))
    assert not before & serve_replicas(ray_server.pid)
