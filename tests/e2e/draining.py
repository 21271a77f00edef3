"""The end of a server under load, the same for every way of hosting."""

import asyncio
import signal
from pathlib import Path

import grpc.aio
import httpx
import pytest

from attendant.v1 import inference_service_pb2_grpc
from benchmarks.checkpoints import write_gpt2
from tests.e2e.callers import WAYS, Answer, Caller, grpc_request, http_body, open_callers
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import BOS

_SLOW_GPT2 = {"n_embd": 512, "n_layer": 2, "n_head": 8, "n_positions": 512, "vocab_size": 2048}

_NUM_CALLS = 16
_NUM_TOKENS = 500


def write_slow_model(directory: Path) -> Path:
    """Write a decoder that takes seconds for what the bundled one says between two heartbeats, so that a drain can be seen."""
    return write_gpt2(directory, _SLOW_GPT2)


async def check_drain(server: ServerProcess, number: signal.Signals) -> None:
    """Send the signal while calls run: not ready at once, new calls refused, running ones whole. The exit is the caller's to check."""
    async with open_callers(server) as callers, httpx.AsyncClient(base_url=server.http_url) as client:
        calls = [asyncio.ensure_future(_long_call(callers[WAYS[index % len(WAYS)]])) for index in range(_NUM_CALLS)]
        await _all_running(client)
        server.signal(number)
        while (await client.get("/ready")).status_code != 503:
            await asyncio.sleep(0.01)
        await _check_refusals(server, client)
        assert (await client.get("/health")).status_code == 200
        assert not any(call.done() for call in calls), "the calls were too short to see the drain"
        answers = await asyncio.gather(*calls)
    assert {answer.num_tokens for answer in answers} == {_NUM_TOKENS}
    assert len({answer.text for answer in answers}) == 1


async def _long_call(caller: Caller) -> Answer:
    return await caller.greedy([BOS], _NUM_TOKENS)


async def _all_running(client: httpx.AsyncClient) -> None:
    """Return when every call has reached an engine."""
    num_running = 0.0
    while num_running < _NUM_CALLS:
        text = (await client.get("/metrics")).text
        num_running = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("attendant_requests_running{"))


async def _check_refusals(server: ServerProcess, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json=http_body([BOS], 4))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    assert int(response.headers["retry-after"]) >= 1
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference_service_pb2_grpc.InferenceServiceStub(channel).Complete(grpc_request([BOS], 4))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
