"""The async client: the same methods, awaited; what differs is cancellation."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from attendant_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    DeadlineExceededError,
    NotReadyError,
    RetryPolicy,
    StreamTruncatedError,
)
from attendant_server.errors import ServingError
from tests.clients.conftest import FAST, RunningServer
from tests.server.grpc_api.fakes import FakeGateway


@pytest.fixture
async def async_client(running: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.url, retry=FAST) as client:
        yield client


def test_it_has_the_blocking_clients_methods_and_parameters() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(method).parameters == inspect.signature(getattr(AsyncClient, name)).parameters, name


async def test_every_task_answers(async_client: AsyncClient) -> None:
    await async_client.wait_ready()
    answer, chat = await asyncio.gather(async_client.complete("tiny", "a"), async_client.chat("tiny", "hi"))
    assert answer.completions[0].text == "echo:a"
    assert chat.choices[0].content == "re:hi"
    assert len((await async_client.embed("tiny", ["a", "b"])).vectors) == 2
    assert (await async_client.classify("tiny", "a")).classifications[0].score == 0.75
    assert (await async_client.few_shot("tiny", queries=["a"])).answers[0].text == "free"
    assert (await async_client.tokenize("tiny", "ab")).token_ids == (1, 2)
    assert await async_client.detokenize("tiny", [3]) == "3"
    assert [model.id for model in await async_client.list_models()] == ["tiny"]
    assert (await async_client.get_model("tiny")).family == "llama"
    assert await async_client.is_ready("tiny")


async def test_streams_have_pieces_and_a_summary(async_client: AsyncClient) -> None:
    async with async_client.stream_complete("tiny", "a") as stream:
        assert [piece.text async for piece in stream] == ["piece0", "piece1"]
    assert stream.summary.timing.total_s == 1.75
    async with aclosing(async_client.stream_chat("tiny", "a")) as chat:
        assert [piece.content async for piece in chat] == ["piece0", "piece1"]


async def test_retries_and_truncation_are_those_of_the_blocking_client(async_client: AsyncClient, gateway: FakeGateway) -> None:
    gateway.errors = [ServingError("not_ready", "loading", retry_after_s=0.001)]
    assert (await async_client.complete("tiny", "a")).completions[0].text == "echo:a"
    gateway.errors = [ServingError("not_ready", "loading", retry_after_s=0.001)]
    assert len([piece async for piece in async_client.stream_complete("tiny", "a")]) == 2
    gateway.fails_after = 1
    with pytest.raises(NotReadyError):
        _ = [piece async for piece in async_client.stream_complete("tiny", "a")]
    gateway.fails_after, gateway.is_cut_short = None, True
    with pytest.raises(StreamTruncatedError):
        _ = [piece async for piece in async_client.stream_complete("tiny", "a")]


async def test_closing_a_stream_cancels_it_on_the_server(async_client: AsyncClient, running: RunningServer) -> None:
    running.gateway.num_pieces = 10_000_000
    async with async_client.stream_complete("tiny", "a") as stream:
        assert (await anext(stream)).text == "piece0"
    await asyncio.to_thread(running.wait_for, running.gateway.ended)
    assert [piece async for piece in stream] == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_cancelling_the_task_cancels_the_request(async_client: AsyncClient, running: RunningServer, is_stream: bool) -> None:
    running.gateway.is_holding = True

    async def read_stream() -> None:
        async for _ in async_client.stream_complete("tiny", "a"):
            pass

    task = asyncio.ensure_future(read_stream() if is_stream else async_client.complete("tiny", "a"))
    await asyncio.to_thread(running.wait_for, running.gateway.started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(running.wait_for, running.gateway.ended)


async def test_a_deadline_is_typed(async_client: AsyncClient, gateway: FakeGateway) -> None:
    gateway.is_holding = True
    with pytest.raises(DeadlineExceededError):
        await async_client.complete("tiny", "a", timeout_s=0.1)
    with pytest.raises(DeadlineExceededError):
        _ = [piece async for piece in async_client.stream_chat("tiny", "a", timeout_s=0.1)]


async def test_nothing_at_the_address_is_a_connection_error(unused_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{unused_port}", retry=RetryPolicy(max_attempts=1)) as client:
        with pytest.raises(ConnectionFailedError):
            await client.embed("tiny", "a")
