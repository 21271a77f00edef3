"""An update of a running application replaces every replica, the gateway too, and no call fails meanwhile."""

import asyncio
import contextlib
import json
import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.samples import Sample

from tests.e2e.callers import MODEL, WAYS, open_callers
from tests.e2e.conftest import RAY_SETTINGS
from tests.e2e.metrics import eventually, label_values
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import WHOLE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

_UPDATE_WITHIN_S = 120
_CALLERS = 8


async def test_no_call_fails_while_every_replica_is_replaced(ray_server: ServerProcess) -> None:
    await eventually(ray_server.http_url, _are_both_there, within_s=_UPDATE_WITHIN_S)
    before = _replicas(ray_server)
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
                await _update(ray_server)
            finally:
                is_updated.set()
        assert num_answers >= _CALLERS
        WHOLE.check(await callers["http"].greedy(WHOLE.prompt, WHOLE.length))
    assert not before & _replicas(ray_server)


async def _update(server: ServerProcess) -> None:
    """Hand Serve the application anew with one setting changed, from another driver of the same cluster, and wait until it runs."""
    address, environment = _cluster(server)
    root = Path(__file__).parents[2]
    settings = {
        **RAY_SETTINGS,
        "models": [{"name": MODEL, "path": str(root / "models" / MODEL)}],
        "http_port": httpx.URL(server.http_url).port,
        "grpc_port": int(server.grpc_address.rpartition(":")[2]),
        "max_queue": 777,
    }
    command = [sys.executable, "-m", "tests.e2e.redeploy", address, json.dumps(settings)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=root, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(_UPDATE_WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def _cluster(server: ServerProcess) -> tuple[str, dict[str, str]]:
    """Return the address of a server's cluster and Ray's variables there, as its own processes have them."""
    for pid, command in descendants(server.pid).items():
        address = re.search(r"--gcs-address=(\S+)", command)
        environment: dict[str, str] = {}
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            entries = Path(f"/proc/{pid}/environ").read_text("utf-8", "replace").split("\0")
            environment = {name: value for name, _, value in (entry.partition("=") for entry in entries) if name.startswith("RAY_")}
        if address and "RAY_AUTH_TOKEN" in environment:
            return address[1], environment
    raise AssertionError("no process of the cluster tells its address")


def _replicas(server: ServerProcess) -> set[int]:
    """The processes of engines and gateway."""
    return {pid for pid, command in descendants(server.pid).items() if command.startswith("ray::ServeReplica")}


def _are_both_there(samples: list[Sample]) -> bool:
    return len(label_values(samples, "attendant_requests_running", "replica")) == 2
