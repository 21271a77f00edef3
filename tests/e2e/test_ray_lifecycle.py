"""A second server on Ray beside the session's: two models of two ranks each, a lost rank, a drain, and nothing left behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.callers import MODEL, open_callers
from tests.e2e.checkpoints import write_bert_encoder
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.draining import check_drain, write_slow_model
from tests.e2e.processes import descendants, is_alive
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import WHOLE

_REPLACED_WITHIN_S = 90
_OF_THE_LOSS = ("rank 1, was ended by SIGKILL", "goes on elsewhere", "the link to replica", "did not answer a call")
"""Lines that a server may log when it loses a rank; which of them depends on what it does at that moment."""

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def second_server(ray_server: ServerProcess, tmp_path: Path) -> Iterator[ServerProcess]:
    encoder = write_bert_encoder(tmp_path / "encoder")
    decoder = write_slow_model(tmp_path / "decoder")
    server = ServerProcess(
        f"{MODEL}={decoder}",
        f"my encoder={encoder}",
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--log-level",
        "warning",
        "--speculation",
        "none",
        "--tensor-parallel",
        "2",
        log_dir=tmp_path,
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


async def test_a_second_server_loses_a_rank_and_ends_without_disturbing_the_first(
    ray_server: ServerProcess, second_server: ServerProcess
) -> None:
    async with httpx.AsyncClient(base_url=second_server.http_url, timeout=_REPLACED_WITHIN_S) as client:
        models = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert models == [MODEL, "my encoder"]
        vectors = await _embed(client)
        engine, rank = _encoder_and_its_rank(second_server)
        os.kill(rank, signal.SIGKILL)
        # Whatever the call meets with, the rank that is gone or the replica that is, it is answered by the replacement.
        assert await _embed(client) == vectors
    assert not is_alive(engine)
    assert engine not in _encoder_and_its_rank(second_server)
    processes = descendants(second_server.pid)
    assert any("haproxy" in command for command in processes.values())
    await check_drain(second_server, signal.SIGTERM)
    assert second_server.wait_exit(60) == 0
    lines = second_server.stderr.splitlines()
    assert lines and all(any(text in line for text in _OF_THE_LOSS) for line in lines), second_server.stderr
    assert second_server.stdout.endswith(second_server.pasted_lines[-1] + "\n")
    assert [command for pid, command in processes.items() if is_alive(pid)] == []
    async with open_callers(ray_server) as callers:
        for caller in callers.values():
            WHOLE.check(await caller.greedy(WHOLE.prompt, WHOLE.length))


async def _embed(client: httpx.AsyncClient) -> list[list[float]]:
    answer = await client.post("/v1/embeddings", json={"model": "my encoder", "input": ["a cat", "a dog"]})
    assert answer.status_code == 200, answer.text
    vectors = [each["embedding"] for each in answer.json()["data"]]
    assert len(vectors) == 2
    return vectors


def _encoder_and_its_rank(server: ServerProcess) -> tuple[int, int]:
    """Return the processes of the encoder's replica that lives: the one of Serve's, and the other rank below it."""
    (engine,) = (pid for pid, command in descendants(server.pid).items() if "engine-my-encoder" in command and is_alive(pid))
    (rank,) = (pid for pid, command in descendants(engine).items() if "attendant_engine.parallel" in command)
    return engine, rank
