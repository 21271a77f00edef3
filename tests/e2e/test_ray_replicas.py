"""Two engine replicas on Ray: what Prometheus sees of them, and what the death of one costs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import grpc.aio
import httpx
import pytest
from prometheus_client.samples import Sample

from attendant.v1 import completion_pb2, inference_service_pb2_grpc
from attendant_server.hosting import ports
from tests.e2e.callers import MODEL, WAYS, grpc_request, open_callers
from tests.e2e.metrics import eventually, label_values, scrape
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import BOS, WHOLE
from tests.external_tools import find_prometheus_program

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180)]

_RUNNING = "attendant_requests_running"
_REPLACED_WITHIN_S = 60
_LENGTH = 450


async def test_metrics_pass_promtools_check(ray_server: ServerProcess) -> None:
    promtool = find_prometheus_program("promtool")
    async with open_callers(ray_server) as callers, httpx.AsyncClient() as client:
        WHOLE.check(await callers["sse"].greedy(WHOLE.prompt, WHOLE.length))
        text = (await client.get(f"{ray_server.http_url}/metrics")).text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_real_prometheus_scrapes_both_replicas(ray_server: ServerProcess, tmp_path: Path) -> None:
    replicas = label_values(await scrape(ray_server.http_url), _RUNNING, "replica")
    assert len(replicas) == 2
    target = ray_server.http_url.removeprefix("http://")
    config = {"scrape_configs": [{"job_name": "attendant", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    (port,) = ports.pick_free("127.0.0.1", 1)
    command = [
        str(find_prometheus_program("prometheus")),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as prometheus:
        try:
            seen = await _query(f"http://127.0.0.1:{port}", _RUNNING, num_results=2, within_s=30)
        finally:
            prometheus.terminate()
    assert {(result["metric"]["replica"], result["metric"]["model"]) for result in seen} == {(replica, MODEL) for replica in replicas}


@pytest.mark.parametrize(
    ("signal_number", "num_lost"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGKILL, 2)], ids=["killed", "hung", "all-killed"]
)
async def test_no_call_notices_the_loss_of_replicas(ray_server: ServerProcess, signal_number: int, num_lost: int) -> None:
    before = label_values(await scrape(ray_server.http_url), _RUNNING, "replica")
    engines = sorted(pid for pid, command in descendants(ray_server.pid).items() if f"engine-{MODEL}" in command)
    assert len(before) == len(engines) == 2
    num_moved = _num_moved(await scrape(ray_server.http_url))
    async with grpc.aio.insecure_channel(ray_server.grpc_address) as channel, open_callers(ray_server) as callers:
        quiet = await callers["grpc-unary"].greedy([BOS], _LENGTH)
        drawn_quiet = await _Stream(channel, seed=5).answer
        streams = [_Stream(channel, seed=5) for _ in range(12)]
        calls = [asyncio.ensure_future(callers[WAYS[index % len(WAYS)]].greedy([BOS], _LENGTH)) for index in range(12)]
        await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
        for pid in engines[:num_lost]:
            os.kill(pid, signal_number)
        try:
            assert [answer.text for answer in await asyncio.gather(*calls)] == [quiet.text] * len(calls)
            assert await asyncio.gather(*(stream.answer for stream in streams)) == [drawn_quiet] * len(streams)
        finally:
            for pid in engines[:num_lost]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert _num_moved(await scrape(ray_server.http_url)) > num_moved

    def is_replaced(samples: list[Sample]) -> bool:
        now = label_values(samples, _RUNNING, "replica")
        return len(now) == 2 and len(now & before) == 2 - num_lost

    await eventually(ray_server.http_url, is_replaced, within_s=_REPLACED_WITHIN_S)
    async with open_callers(ray_server) as callers:
        for answer in await asyncio.gather(*(callers["http"].greedy(WHOLE.prompt, WHOLE.length) for _ in range(4))):
            WHOLE.check(answer)


def _num_moved(samples: list[Sample]) -> float:
    return sum(sample.value for sample in samples if sample.name == "attendant_stream_failovers_total")


class _Stream:
    """A long stream of drawn tokens: whether it has begun, and all its tokens in the end."""

    def __init__(self, channel: grpc.aio.Channel, *, seed: int) -> None:
        self.has_begun = asyncio.Event()
        request = completion_pb2.StreamCompleteRequest(request=grpc_request([BOS], _LENGTH))
        request.request.sampling.temperature = 1.0
        request.request.sampling.seed = seed
        self._call = inference_service_pb2_grpc.InferenceServiceStub(channel).StreamComplete(request)
        self.answer = asyncio.ensure_future(self._read())

    async def _read(self) -> list[int]:
        token_ids: list[int] = []
        try:
            async for piece in self._call:
                token_ids += piece.delta.token_ids
                self.has_begun.set()
        finally:
            self.has_begun.set()
        return token_ids


async def _query(url: str, expression: str, *, num_results: int, within_s: float) -> list[dict[str, dict[str, str]]]:
    """Ask Prometheus until there are as many results as wanted."""
    deadline_s = time.monotonic() + within_s
    results: list[dict[str, dict[str, str]]] = []
    async with httpx.AsyncClient(base_url=url) as client:
        while len(results) != num_results:
            assert time.monotonic() < deadline_s, f"Prometheus has {results}"
            try:
                response = await client.get("/api/v1/query", params={"query": expression})
                results = response.json()["data"]["result"]
            except (httpx.TransportError, json.JSONDecodeError):
                results = []  # it is starting
            # Nothing announces the next scrape.
            await asyncio.sleep(0.1)
    return results
