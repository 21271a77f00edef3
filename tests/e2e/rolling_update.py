"""A rolling update of a server on Ray, as an operator's deployment would do it: from another driver of the same cluster."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.e2e.callers import MODEL
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess

_ROOT = Path(__file__).parents[2]


async def update(server: ServerProcess, model: Path, settings: Mapping[str, object], *, within_s: float) -> None:
    """Hand Serve the application anew with ``settings``, by their names in a configuration, and wait until it runs."""
    address, environment = _cluster(server)
    whole = {
        **settings,
        "models": [{"name": MODEL, "path": str(model)}],
        "http_port": httpx.URL(server.http_url).port,
        "grpc_port": int(server.grpc_address.rpartition(":")[2]),
    }
    command = [sys.executable, "-m", "tests.e2e.redeploy", address, json.dumps(whole)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=_ROOT, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(within_s):
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
