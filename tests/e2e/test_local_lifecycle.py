"""A local server from start to end: what it prints, how it drains, and how it fails to start."""

import asyncio
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx

from tests.e2e.callers import MODEL, http_body
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.draining import check_drain, write_slow_model
from tests.e2e.metrics import eventually, is_idle
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import BOS, drawn_sentence

_OPTIONS = ("--local", "--http-port", "0", "--grpc-port", "0", "--log-level", "warning")
_ARGS = (MODEL, *_OPTIONS)


def test_the_lines_to_paste_work_as_pasted(local_server: ServerProcess) -> None:
    assert len(local_server.pasted_lines) == 3
    sentence = drawn_sentence(local_server.grpc_address, MODEL)
    for line in local_server.pasted_lines:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, cwd="/")
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert sentence in done.stdout, f"{line}\n{done.stdout}"


async def test_a_signal_lets_running_calls_end_and_refuses_new_ones_meanwhile(tmp_path: Path) -> None:
    slow = write_slow_model(tmp_path / "slow")
    server = ServerProcess(f"{MODEL}={slow}", *_OPTIONS, "--speculation", "none", log_dir=tmp_path)
    server.wait_ready(START_TIMEOUT_S)
    await check_drain(server, signal.SIGTERM)
    assert server.stop() == 0


def test_ctrl_c_on_an_idle_server_ends_it_at_once_with_exit_code_0(tmp_path: Path) -> None:
    server = ServerProcess(*_ARGS, log_dir=tmp_path)
    server.wait_ready(START_TIMEOUT_S)
    # A terminal sends it to the whole process group.
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait_exit(10) == 0
    assert "Traceback" not in server.stderr
    server.stop()


async def test_a_second_signal_cuts_running_calls_short_with_an_answer(tmp_path: Path) -> None:
    server = ServerProcess(*_ARGS, "--max-num-seqs", "1", log_dir=tmp_path)
    server.wait_ready(START_TIMEOUT_S)
    async with httpx.AsyncClient(base_url=server.http_url, timeout=60) as client:
        call = asyncio.ensure_future(client.post("/v1/completions", json=http_body([BOS], 500) | {"n": 128}))
        await eventually(server.http_url, lambda samples: not is_idle(samples))
        server.signal(signal.SIGTERM)
        while (await client.get("/ready")).status_code != 503:
            await asyncio.sleep(0.01)
        server.signal(signal.SIGTERM)
        response = await call
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    assert server.wait_exit(15) == 0
    assert "Traceback" not in server.stderr
    server.stop()


def test_a_port_in_use_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ServerProcess(*_ARGS, "--http-port", str(port), log_dir=tmp_path)
        assert server.wait_exit(START_TIMEOUT_S) == 1
    assert server.stderr.count("\n") == 1
    assert server.stderr.startswith("attendant: ")
    assert str(port) in server.stderr
    server.stop()


def test_a_checkpoint_that_cannot_be_loaded_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    server = ServerProcess(str(broken), *_ARGS[1:], log_dir=tmp_path)
    assert server.wait_exit(START_TIMEOUT_S) == 1
    assert server.stderr.startswith("attendant: ")
    assert "Traceback" not in server.stderr
    server.stop()
