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
from tests.e2e.metrics import are_two_there, engine_replicas, eventually, scrape
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
    await eventually(ray_server.http_url, are_two_there, within_s=_REPLACED_WITHIN_S)
    replicas = engine_replicas(await scrape(ray_server.http_url))
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
    await eventually(ray_server.http_url, are_two_there, within_s=_REPLACED_WITHIN_S)
    samples = await scrape(ray_server.http_url)
    before, num_moved = engine_replicas(samples), _num_moved(samples)
    engines = sorted(pid for pid, command in descendants(ray_server.pid).items() if f"engine-{MODEL}" in command)
    assert len(engines) == 2
    async with grpc.aio.insecure_channel(ray_server.grpc_address) as channel, open_callers(ray_server) as callers:
        quiet = await callers["grpc-unary"].greedy([BOS], _LENGTH)
        drawn_quiet = await _draw(channel, seed=5)
        num_answers, has_moved = 0, asyncio.Event()

        # Everybody calls again until a stream was moved: a fast server may be through with one round before the signal.
        async def call_on(way: str) -> None:
            nonlocal num_answers
            while not has_moved.is_set():
                assert (await callers[way].greedy([BOS], _LENGTH)).text == quiet.text
                num_answers += 1

        async def draw_on() -> None:
            nonlocal num_answers
            while not has_moved.is_set():
                assert await _draw(channel, seed=5) == drawn_quiet
                num_answers += 1

        async with asyncio.TaskGroup() as group:
            for index in range(12):
                group.create_task(call_on(WAYS[index % len(WAYS)]))
                group.create_task(draw_on())
            await eventually(ray_server.http_url, _all_are_busy)
            try:
                # Stopped before they are killed: an engine of so small a model is idle as often as not, and would die with nothing
                # to be missed. Half a second is too short for anybody to notice.
                for pid in engines[:num_lost]:
                    os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(0.5)
                for pid in engines[:num_lost]:
                    os.kill(pid, signal_number)
                await eventually(ray_server.http_url, lambda samples: _num_moved(samples) > num_moved, within_s=_REPLACED_WITHIN_S)
            finally:
                has_moved.set()
                for pid in engines[:num_lost]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        assert num_answers >= 24

    def is_replaced(samples: list[Sample]) -> bool:
        now = engine_replicas(samples)
        return len(now) == 2 and len(now & before) == 2 - num_lost

    await eventually(ray_server.http_url, is_replaced, within_s=_REPLACED_WITHIN_S)
    async with open_callers(ray_server) as callers:
        for answer in await asyncio.gather(*(callers["http"].greedy(WHOLE.prompt, WHOLE.length) for _ in range(4))):
            WHOLE.check(answer)


def _num_moved(samples: list[Sample]) -> float:
    return sum(sample.value for sample in samples if sample.name == "attendant_stream_failovers_total")


def _all_are_busy(samples: list[Sample]) -> bool:
    return [sample.value >= 2 for sample in samples if sample.name == _RUNNING] == [True, True]


async def _draw(channel: grpc.aio.Channel, *, seed: int) -> list[int]:
    """All tokens of one long stream of drawn tokens."""
    request = completion_pb2.StreamCompleteRequest(request=grpc_request([BOS], _LENGTH))
    request.request.sampling.temperature = 1.0
    request.request.sampling.seed = seed
    return [
        token_id
        async for piece in inference_service_pb2_grpc.InferenceServiceStub(channel).StreamComplete(request)
        for token_id in piece.delta.token_ids
    ]


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
