"""A gateway is killed in the middle of its callers' streams: the client library loses no token and no call."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from attendant_server.hosting import ports
from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.gateway_death import Deaths
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess


async def test_what_a_killed_local_server_was_doing_goes_on_at_the_one_that_replaces_it(tmp_path: Path) -> None:
    (port,) = ports.pick_free("127.0.0.1", 1)
    servers: list[ServerProcess] = []

    def start() -> None:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(
            ServerProcess(MODEL, "--local", "--http-port", "0", "--grpc-port", str(port), "--log-level", "warning", log_dir=folder)
        )
        servers[-1].wait_ready(START_TIMEOUT_S)

    async def kill_and_replace() -> None:
        os.killpg(servers[0].pid, signal.SIGKILL)
        servers[0].wait_exit(10)
        await asyncio.to_thread(start)

    await asyncio.to_thread(start)
    try:
        assert await Deaths(servers[0].grpc_address).check(kill_and_replace) > 0
    finally:
        for server in servers:
            server.stop()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_what_a_killed_gateway_replica_was_doing_goes_on_at_the_next(ray_server: ServerProcess) -> None:
    gateways = [pid for pid, command in descendants(ray_server.pid).items() if ":gateway" in command]
    assert gateways, descendants(ray_server.pid)

    async def kill() -> None:
        for pid in gateways:
            os.kill(pid, signal.SIGKILL)

    assert await Deaths(ray_server.grpc_address).check(kill) > 0
