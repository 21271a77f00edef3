"""A caller who hangs up ends the work at once, wherever it stands."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.http_api.fakes import FakeGateway, RawCaller, delta

JSON_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "tiny", "prompt": "x"}),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/embeddings", {"model": "tiny", "input": "x"}),
    ("/v1/classify", {"model": "tiny", "input": "x"}),
    ("/v1/few-shot", {"model": "tiny", "queries": ["x"]}),
    ("/tokenize", {"prompt": "x"}),
    ("/detokenize", {"tokens": [1]}),
]
STREAMS: list[tuple[str, dict[str, Any]]] = [(path, {**body, "stream": True}) for path, body in JSON_CALLS[:2]]


@pytest.mark.parametrize(("path", "body"), JSON_CALLS)
async def test_hanging_up_cancels_the_task(app: FastAPI, gateway: FakeGateway, path: str, body: dict[str, Any]) -> None:
    gateway.is_holding = True
    caller = RawCaller(app, path, body)
    running = asyncio.create_task(caller.run())
    await gateway.started.wait()
    caller.hang_up()
    await running
    assert gateway.ended.is_set()
    assert caller.status == 499


@pytest.mark.parametrize(("path", "body"), STREAMS)
@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_hanging_up_ends_a_stream_before_and_after_its_first_piece(
    app: FastAPI, gateway: FakeGateway, path: str, body: dict[str, Any], pieces: int
) -> None:
    gateway.is_holding = True
    gateway.items = [delta("a") for _ in range(pieces)]
    caller = RawCaller(app, path, body)
    running = asyncio.create_task(caller.run())
    await gateway.started.wait()
    if pieces:
        await caller.has_response.wait()
    assert not gateway.ended.is_set()
    caller.hang_up()
    await running
    assert gateway.ended.is_set()
    assert caller.status == (200 if pieces else 499)


async def test_hanging_up_while_admission_waits_ends_it(app: FastAPI, gateway: FakeGateway) -> None:
    async def never(*_: Any) -> Any:
        await gateway._hold()

    gateway.stream_complete = never  # type: ignore[method-assign, assignment]
    caller = RawCaller(app, "/v1/completions", {"model": "tiny", "prompt": "x", "stream": True})
    running = asyncio.create_task(caller.run())
    await gateway.started.wait()
    caller.hang_up()
    await running
    assert gateway.ended.is_set()


async def test_hanging_up_while_not_reading_ends_a_stream(app: FastAPI, gateway: FakeGateway) -> None:
    gateway.items = [delta("x" * 1000) for _ in range(1000)]
    caller = RawCaller(app, "/v1/completions", {"model": "tiny", "prompt": "x", "stream": True})
    caller.is_reading.clear()
    running = asyncio.create_task(caller.run())
    await caller.has_response.wait()
    caller.hang_up()
    await gateway.ended.wait()
    caller.is_reading.set()
    await running


@pytest.mark.parametrize(("path", "body"), [JSON_CALLS[0], STREAMS[0]])
async def test_a_server_that_stops_ends_the_work(app: FastAPI, gateway: FakeGateway, path: str, body: dict[str, Any]) -> None:
    gateway.is_holding = True
    running = asyncio.create_task(RawCaller(app, path, body).run())
    await gateway.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gateway.ended.is_set()


async def test_no_task_is_left_behind(app: FastAPI, gateway: FakeGateway) -> None:
    before = asyncio.all_tasks()
    for path, body in (*JSON_CALLS, *STREAMS):
        await RawCaller(app, path, body).run()
    assert asyncio.all_tasks() == before
