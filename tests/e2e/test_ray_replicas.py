"""Two engine replicas on Ray: what Prometheus sees of them, and what the death of one costs."""

import asyncio
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
from tests.e2e.callers import MODEL, grpc_request, open_callers
from tests.e2e.metrics import eventually, label_values, scrape
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import BOS, WHOLE
from tests.external_tools import find_prometheus_program

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180)]

_RUNNING = "attendant_requests_running"
_REPLACED_WITHIN_S = 60


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


async def test_a_killed_replica_fails_only_what_ran_on_it_and_is_replaced(ray_server: ServerProcess) -> None:
    before = label_values(await scrape(ray_server.http_url), _RUNNING, "replica")
    engines = sorted(pid for pid, command in descendants(ray_server.pid).items() if f"engine-{MODEL}" in command)
    assert len(before) == len(engines) == 2
    async with grpc.aio.insecure_channel(ray_server.grpc_address) as channel:
        streams = [_Stream(channel) for _ in range(16)]
        await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
        os.kill(engines[0], signal.SIGKILL)
        started_s = time.monotonic()
        codes = await asyncio.gather(*(stream.code for stream in streams))
    assert time.monotonic() - started_s < 30
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}

    def is_replaced(samples: list[Sample]) -> bool:
        now = label_values(samples, _RUNNING, "replica")
        return len(now) == 2 and len(now & before) == 1

    await eventually(ray_server.http_url, is_replaced, within_s=_REPLACED_WITHIN_S)
    async with open_callers(ray_server) as callers:
        for answer in await asyncio.gather(*(callers["http"].greedy(WHOLE.prompt, WHOLE.length) for _ in range(4))):
            WHOLE.check(answer)


class _Stream:
    """A long stream: whether it has begun, and how it ended."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.has_begun = asyncio.Event()
        request = completion_pb2.StreamCompleteRequest(request=grpc_request([BOS], 450))
        self._call = inference_service_pb2_grpc.InferenceServiceStub(channel).StreamComplete(request)
        self.code = asyncio.ensure_future(self._read())

    async def _read(self) -> grpc.StatusCode:
        try:
            async for _ in self._call:
                self.has_begun.set()
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            self.has_begun.set()
        return grpc.StatusCode.OK


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
