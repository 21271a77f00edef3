"""Servers that several tests share: one Ray cluster a session, started by ``attendant serve`` as an operator would."""

from collections.abc import Iterator

import pytest

from tests.e2e.callers import MODEL
from tests.e2e.server_process import ServerProcess

# Caches that hold 64 short requests side by side, but not 64 whole stories: 6 MiB a replica for half of them each.
RAY_SETTINGS = {"replicas": 2, "kv_cache_memory": "6MiB", "log_level": "warning", "drain_timeout_s": 5}
"""Of the session's server on Ray, by their names in a configuration."""
_PORTS = ("--http-port", "0", "--grpc-port", "0")
START_TIMEOUT_S = 100
"""Some seconds on an idle machine, many where all tests start at once."""


@pytest.fixture(scope="session")
def ray_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two replicas of stories260k on Ray Serve; for tests marked ``ray``."""
    server = ServerProcess(
        MODEL,
        *_PORTS,
        *(text for name, value in RAY_SETTINGS.items() for text in ("--" + name.replace("_", "-"), str(value))),
        log_dir=tmp_path_factory.mktemp("ray"),
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One replica of stories260k in one process."""
    server = ServerProcess(
        MODEL,
        *_PORTS,
        *("--local", "--kv-cache-memory", "12MiB", "--log-level", "warning"),
        log_dir=tmp_path_factory.mktemp("local"),
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()
