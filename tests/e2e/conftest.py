"""Servers that several tests share: one Ray cluster a session, started by ``attendant serve`` as an operator would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.callers import MODEL
from tests.e2e.checkpoints import write_adapter, write_bert_classifier, write_gpt2
from tests.e2e.server_process import ServerProcess

# Caches that hold 64 short requests side by side, but not 64 whole stories: 6 MiB a replica for half of them each.
RAY_SETTINGS = {"replicas": 2, "kv_cache_memory": "6MiB", "log_level": "warning", "drain_timeout_s": 5}
"""Of the session's server on Ray, by their names in a configuration."""
_PORTS = ("--http-port", "0", "--grpc-port", "0")
START_TIMEOUT_S = 100
"""Some seconds on an idle machine, many where all tests start at once."""


def write_judge(directory: Path) -> Path:
    """Write a classifier with an adapter of its own, which is served as ``judge-mood``."""
    write_bert_classifier(directory)
    write_adapter(directory / "adapters" / "mood", ("sad", "glad", "neither"))
    return directory


def write_models(root: Path) -> Path:
    """Write models that a running server may load: one with an adapter, and a broken one."""
    write_judge(root / "judge")
    broken = write_gpt2(root / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-64])
    return root


@pytest.fixture(scope="session")
def ray_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two replicas of stories260k on Ray Serve, which may load other models; for tests marked ``ray``."""
    server = ServerProcess(
        MODEL,
        *("--model-directory", str(write_models(tmp_path_factory.mktemp("others")))),
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
