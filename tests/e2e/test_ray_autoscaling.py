"""Replicas come with load, go without it, down to none, and the next call wakes the model: it waits, and is answered as ever."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.callers import MODEL, open_callers
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import BOS, WHOLE

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

_CHANGE_WITHIN_S = 90
_MOST_COLD_START_S = 60.0
_CALLERS = 80
_LENGTH = 200  # what takes the engine longer than the transports, or nothing would queue there


@pytest.fixture
def scaling_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Zero to two replicas that compute one sequence at a time, so that a queue is easily had."""
    server = ServerProcess(
        MODEL,
        *("--http-port", "0", "--grpc-port", "0", "--log-level", "warning", "--drain-timeout-s", "5"),
        *("--min-replicas", "0", "--max-replicas", "2", "--downscale-delay-s", "2"),
        *("--max-num-seqs", "1", "--kv-cache-memory", "6MiB", "--speculation", "none"),
        log_dir=tmp_path,
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


async def test_replicas_come_with_load_and_go_to_none_and_the_next_call_wakes_one(scaling_server: ServerProcess) -> None:
    async with open_callers(scaling_server) as callers, httpx.AsyncClient(base_url=scaling_server.http_url) as client:
        WHOLE.check(await callers["http"].greedy(WHOLE.prompt, WHOLE.length))
        is_scaled = asyncio.Event()

        async def call_on(number: int) -> None:
            while not is_scaled.is_set():
                assert (await callers["http"].greedy([BOS, 400 + number % 100], _LENGTH)).num_tokens == _LENGTH

        async with asyncio.TaskGroup() as group:
            for number in range(_CALLERS):
                group.create_task(call_on(number))
            try:
                await _until(client, num_replicas=2)
            finally:
                is_scaled.set()
        await _until(client, num_replicas=0)
        assert (await client.get("/ready")).status_code == 200
        started_s = time.monotonic()
        answers = await asyncio.gather(*(callers[way].greedy(WHOLE.prompt, WHOLE.length) for way in ("http", "sse", "grpc-unary")))
        assert time.monotonic() - started_s < _MOST_COLD_START_S
        for answer in answers:
            WHOLE.check(answer)


async def _until(client: httpx.AsyncClient, *, num_replicas: int) -> None:
    """Wait until the model has this number of replicas."""
    card: dict[str, Any] = {}
    async with asyncio.timeout(_CHANGE_WITHIN_S):
        while card.get("num_replicas") != num_replicas:
            # Nothing announces a change of Serve's; the pause leaves the server its cores.
            await asyncio.sleep(0.1)
            card = (await client.get(f"/v1/models/{MODEL}")).json()
    assert card["is_ready"] is True
