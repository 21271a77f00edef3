"""One process and its ranks as an operator starts them: they answer as one does, and a rank's end is said everywhere."""

import os
import signal
from pathlib import Path

import httpx

from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.server_process import ServerProcess

_BODY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}


def test_two_ranks_serve_and_when_one_is_killed_the_server_says_so_and_ends_with_the_other_gone(tmp_path: Path) -> None:
    flags = ("--local", "--tensor-parallel", "2", "--http-port", "0", "--grpc-port", "0", "--log-level", "warning")
    server = ServerProcess(MODEL, *flags, log_dir=tmp_path)
    server.wait_ready(START_TIMEOUT_S)
    (rank,) = ranks_of(server.pid)
    with httpx.Client(base_url=server.http_url, timeout=30) as client:
        answer = client.post("/v1/completions", json=_BODY)
        assert answer.status_code == 200, answer.text
        assert "there was a little girl named Lily" in answer.json()["choices"][0]["text"]
        os.kill(rank, signal.SIGKILL)
        while client.get("/ready").status_code == 200:
            pass
        assert client.post("/v1/completions", json=_BODY).status_code == 503
        assert "rank 1, was ended by SIGKILL" in client.get("/v1/models").text
    assert server.stop() == 0
    assert "Traceback" not in server.stderr
    assert not Path(f"/proc/{rank}").exists()


def ranks_of(pid: int) -> list[int]:
    """Return the other ranks' processes."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [child for child in children if b"attendant_engine.parallel" in Path(f"/proc/{child}/cmdline").read_bytes()]
