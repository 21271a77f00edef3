"""A request that kills the replica it runs on: it is tried once more and given up, and nobody beside it notices."""

import asyncio
from pathlib import Path

import pytest

from attendant_client import AsyncClient, RetryPolicy, ServerError
from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.metrics import are_two_there, eventually
from tests.e2e.processes import descendants, is_alive
from tests.e2e.server_process import ServerProcess
from tests.e2e.steady_calls import steady_calls

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

_POISON = 5  # a byte that no story has
_REPLACED_WITHIN_S = 90


async def test_a_request_that_kills_its_replicas_ends_two_of_them_and_no_other_call(tmp_path: Path) -> None:
    server = ServerProcess(
        *(MODEL, "--http-port", "0", "--grpc-port", "0", "--replicas", "2", "--kv-cache-memory", "6MiB", "--log-level", "error"),
        *("--drain-timeout-s", "5", "--tests-only", "--faults", f"step:kill:{_POISON}"),
        log_dir=tmp_path,
    )
    try:
        await asyncio.to_thread(server.wait_ready, START_TIMEOUT_S)
        await eventually(server.http_url, are_two_there, within_s=_REPLACED_WITHIN_S)
        before = _engines(server)
        async with (
            steady_calls(server, num_callers=8),
            AsyncClient(server.grpc_address, timeout_s=120.0, retry=RetryPolicy(max_attempts=1)) as client,
        ):
            with pytest.raises(ServerError, match="given up"):
                await client.complete(MODEL, [1, _POISON], max_tokens=5)
        replacements = _engines(server) - before
        assert not any(map(is_alive, before))
        await eventually(server.http_url, are_two_there, within_s=_REPLACED_WITHIN_S)
        assert all(map(is_alive, replacements))
    finally:
        server.stop()


def _engines(server: ServerProcess) -> set[int]:
    return {pid for pid, command in descendants(server.pid).items() if f"engine-{MODEL}" in command}
