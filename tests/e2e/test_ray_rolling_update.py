"""An update of a running application replaces every replica, the gateway too, and no call fails meanwhile."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.callers import MODEL, WAYS, open_callers
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import WHOLE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

_SETTINGS = {"replicas": 2, "kv_cache_memory": "6MiB", "log_level": "warning", "drain_timeout_s": 5}
_UPDATE_WITHIN_S = 120
_CALLERS = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    flags = [text for key, value in _SETTINGS.items() for text in ("--" + key.replace("_", "-"), str(value))]
    server = ServerProcess(MODEL, "--http-port", "0", "--grpc-port", "0", *flags, log_dir=tmp_path)
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


async def test_no_call_fails_while_every_replica_is_replaced(server: ServerProcess) -> None:
    before = _replicas(server)
    assert len(before) == 3
    is_updated, num_answers = asyncio.Event(), 0
    async with open_callers(server) as callers:

        async def call_on(way: str) -> None:
            nonlocal num_answers
            while not is_updated.is_set():
                WHOLE.check(await callers[way].greedy(WHOLE.prompt, WHOLE.length))
                num_answers += 1

        async with asyncio.TaskGroup() as group:
            for number in range(_CALLERS):
                group.create_task(call_on(WAYS[number % len(WAYS)]))
            try:
                await _update(server)
            finally:
                is_updated.set()
        assert num_answers >= _CALLERS
        WHOLE.check(await callers["http"].greedy(WHOLE.prompt, WHOLE.length))
    assert not before & _replicas(server)


async def _update(server: ServerProcess) -> None:
    """Hand Serve the application anew with one setting changed, from another driver of the same cluster, and wait until it runs."""
    address, environment = _cluster(server)
    root = Path(__file__).parents[2]
    settings = {
        **_SETTINGS,
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
