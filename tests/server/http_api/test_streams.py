import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from attendant_server.errors import ServingError
from attendant_server.http_api import event_stream
from attendant_server.http_api.event_stream import MAX_OUTBOX_BYTES
from tests.server.http_api.fakes import FakeGateway, RawCaller, delta, position, stream_end, token

COMPLETION = {"model": "tiny", "prompt": "x", "stream": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
BOTH = [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]


def events_of(raw: bytes) -> list[Any]:
    """Read server-sent events strictly; the last must be [DONE]."""
    *events, rest = raw.decode().split("\n\n")
    assert rest == ""
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


async def stream(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    return events_of(response.content)


async def test_a_completion_streams_its_pieces_and_ends_with_done(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, "/v1/completions", COMPLETION)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hello", " world"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[5], [6]]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("text_completion", "tiny")}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_chat_says_whose_turn_it_is_once_a_choice(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.items = [
        delta("a", index=0),
        delta("b", index=1),
        delta("c", index=0, finish_reason="length"),
        delta("", index=1, finish_reason="stop"),
        stream_end(),
    ]
    chunks = await stream(client, "/v1/chat/completions", {**CHAT, "n": 2})
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"content": "c"},
        {"content": ""},
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize(("path", "body"), BOTH)
async def test_usage_comes_last_without_choices_when_asked(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    *chunks, last = await stream(client, path, {**body, "stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}
    assert last["receipt"]["seed"] == 7
    assert last["timing"]["total_s"] == 1.75


@pytest.mark.parametrize(("path", "body"), BOTH)
async def test_usage_comes_with_every_chunk_when_asked(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, path, {**body, "stream_options": options})
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 1, 2]


async def test_logprobs_travel_with_their_pieces(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    positions = (position("a", -0.5, token(1, "a", -0.5), offset=3),)
    gateway.items = [delta("a", logprobs=positions, finish_reason="stop", stop_token_id=9), stream_end()]
    completion = (await stream(client, "/v1/completions", {**COMPLETION, "logprobs": 1}))[0]["choices"][0]
    assert completion["logprobs"] == {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [3]}
    assert completion["stop_reason"] == 9
    chat = (await stream(client, "/v1/chat/completions", {**CHAT, "logprobs": True}))[0]["choices"][0]
    assert chat["logprobs"]["content"][0]["token"] == "a"


@pytest.mark.parametrize(("path", "body"), BOTH)
async def test_what_fails_before_the_first_chunk_is_a_proper_error(
    client: httpx.AsyncClient, gateway: FakeGateway, path: str, body: dict[str, Any]
) -> None:
    gateway.error = ServingError("queue_full", "full", retry_after_s=2)
    refused = await client.post(path, json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    gateway.error = None
    gateway.items = [ServingError("deadline_exceeded", "too late")]
    late = await client.post(path, json=body)
    assert (late.status_code, late.headers["x-should-retry"]) == (504, "false")
    assert late.json()["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(("path", "body"), BOTH)
async def test_what_fails_after_the_first_chunk_is_an_event_and_then_done(
    client: httpx.AsyncClient, gateway: FakeGateway, path: str, body: dict[str, Any]
) -> None:
    gateway.items = [delta("a"), ServingError("not_ready", "the replica was lost")]
    *_, last = await stream(client, path, body)
    assert last["error"]["code"] == "not_ready"
    gateway.items = [delta("a"), RuntimeError("secret /path/of/ours")]
    response = await client.post(path, json=body)
    *_, last = events_of(response.content)
    assert last["error"]["code"] == "server_error"
    assert response.headers["x-request-id"] in last["error"]["message"]
    assert b"secret" not in response.content


async def test_a_stream_of_no_pieces_still_ends_with_done(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.items = [stream_end()]
    assert await stream(client, "/v1/completions", COMPLETION) == []


async def test_pieces_that_are_there_together_are_sent_in_one_write(app: FastAPI, gateway: FakeGateway) -> None:
    gateway.items = [*(delta(str(index), index=index) for index in range(50)), stream_end()]
    caller = RawCaller(app, "/v1/completions", COMPLETION)
    await caller.run()
    assert len(events_of(b"".join(caller.writes))) == 50
    assert len(caller.writes) <= 3


async def test_a_reader_that_stops_reading_holds_little(app: FastAPI, gateway: FakeGateway) -> None:
    num_pieces, taken = 2000, 0

    class Counted(FakeGateway):
        async def _stream(self) -> Any:
            nonlocal taken
            async for item in super()._stream():
                taken += 1
                yield item

    counted = Counted()
    counted.items = [*(delta("x" * 1000) for _ in range(num_pieces)), stream_end()]
    gateway.stream_complete = counted.stream_complete  # type: ignore[method-assign]
    caller = RawCaller(app, "/v1/completions", COMPLETION)
    caller.is_reading.clear()
    running = asyncio.create_task(caller.run())
    await caller.has_response.wait()
    # What was sent, what waits in the outbox, and one on its way; each piece is more than a thousand bytes.
    assert taken <= 2 * MAX_OUTBOX_BYTES // 1000 + 2
    caller.is_reading.set()
    await running
    assert len(events_of(b"".join(caller.writes))) == num_pieces


async def test_sixty_four_streams_at_once_get_each_their_own(client: httpx.AsyncClient) -> None:
    async def one(number: int) -> str:
        response = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": f"stream-{number}"})
        chunks = events_of(response.content)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello world"
        return str(chunks[0]["id"])

    assert await asyncio.gather(*(one(number) for number in range(64))) == [f"stream-{number}" for number in range(64)]


async def test_a_stream_that_is_not_read_gives_back_what_it_held(
    app: FastAPI, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MAX_STALL_S", 0.01)
    gateway.items = [*(delta("x" * 10_000) for _ in range(20)), stream_end()]
    caller = RawCaller(app, "/v1/completions", COMPLETION)
    caller.is_reading.clear()
    running = asyncio.ensure_future(caller.run())
    async with asyncio.timeout(10):
        await gateway.ended.wait()
    caller.is_reading.set()
    await running
    assert b"not read for 0.01 s" in b"".join(caller.writes)
