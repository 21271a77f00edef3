"""Streams: the first token at once, later ones together, all that one holds given back however it ends."""

import asyncio
import gc
import time
from typing import Any

import pytest

from attendant_engine.types import OutputError, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.interface import StreamItem
from attendant_server.gateway.requests import CompletionRequest
from attendant_server.gateway.results import CompletionDelta, StreamEnd
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.streams import CompletionStream
from tests.server.fakes import FakeLink, call, ids_of, says


async def _open(gateway: Gateway, prompt: Any = "hi", **fields: Any) -> CompletionStream:
    context = call(deadline_s=fields.pop("deadline_s", None))
    stream = await gateway.stream_complete(CompletionRequest(model="tiny", prompt=prompt, **{"max_tokens": 32, **fields}), context)
    assert isinstance(stream, CompletionStream)
    return stream


async def _all(stream: CompletionStream) -> list[StreamItem]:
    return [item async for item in stream]


def _text(items: list[StreamItem], index: int = 0) -> str:
    return "".join(item.text for item in items if isinstance(item, CompletionDelta) and item.index == index)


@pytest.mark.parametrize("fields", [{}, {"stop": "wor"}, {"echo": True, "logprobs": 2}, {"n": 3}, {"min_tokens": 5, "stop": "o"}])
async def test_a_stream_joined_is_the_unary_answer(gateway: Gateway, link: FakeLink, fields: dict[str, Any]) -> None:
    link.answer = says("hello wörld €")
    request = CompletionRequest(model="tiny", prompt=["p", "q"], max_tokens=32, seed=5, **fields)
    unary = await gateway.complete(request, call())
    items = await _all(await _open(gateway, ["p", "q"], seed=5, **fields))
    end = items[-1]
    assert isinstance(end, StreamEnd)
    assert (end.usage, end.receipt) == (unary.usage, unary.receipt)
    deltas = [item for item in items if isinstance(item, CompletionDelta)]
    for choice in unary.choices:
        mine = [delta for delta in deltas if delta.index == choice.index]
        assert _text(items, choice.index) == choice.text
        assert tuple(token_id for delta in mine for token_id in delta.token_ids) == choice.token_ids
        assert tuple(p for delta in mine for p in delta.logprobs or ()) == (choice.logprobs or ())
        assert [delta.finish_reason for delta in mine if delta.finish_reason] == [choice.finish_reason]
        assert mine[-1].stop_text == choice.stop_text


async def test_the_first_token_comes_at_once_and_the_rest_together(gateway: Gateway, link: FakeLink) -> None:
    stream = await _open(gateway)
    request_id = link.submitted[0].request_id
    link.emit(SequenceOutput(request_id=request_id, token_ids=ids_of("a")))
    first = await anext(stream)
    assert isinstance(first, CompletionDelta)
    assert first.text == "a"
    for character in "bcdefgh":
        link.emit(SequenceOutput(request_id=request_id, token_ids=ids_of(character)))
    second = await anext(stream)
    assert isinstance(second, CompletionDelta)
    assert (second.text, second.usage.completion_tokens) == ("bcdefgh", 8)
    await stream.aclose()


async def test_a_character_in_parts_is_shown_when_it_is_whole(gateway: Gateway, link: FakeLink) -> None:
    stream = await _open(gateway)
    request_id = link.submitted[0].request_id
    texts = []
    for token_id in "€".encode():
        link.emit(SequenceOutput(request_id=request_id, token_ids=(token_id,)))
        item = await anext(stream)
        assert isinstance(item, CompletionDelta)
        texts.append(item.text)
    assert texts == ["", "", "€"]
    await stream.aclose()


async def _wait_in(stream: CompletionStream) -> asyncio.Task[StreamItem]:
    task: asyncio.Task[StreamItem] = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("way", ["closed", "closed unread", "dropped", "cancelled", "failed", "deadline"])
async def test_however_a_stream_ends_it_gives_everything_back(gateway: Gateway, model: ServedModel, link: FakeLink, way: str) -> None:
    stream = await _open(gateway, ["p", "q"], deadline_s=time.monotonic() + 0.05 if way == "deadline" else None)
    request_ids = [request.request_id for request in link.submitted]
    assert (model.admission.num_held, gateway.num_active, model.replicas.num_in_flight(link)) == (1, 1, 2)
    if way == "closed":
        link.emit(SequenceOutput(request_id=request_ids[0], token_ids=ids_of("a")))
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    elif way == "closed unread":
        await stream.aclose()
    elif way == "dropped":
        del stream
        gc.collect()
    elif way == "cancelled":
        task = await _wait_in(stream)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        if way == "failed":
            error = OutputError(code="server_error", message="non-finite logits")
            link.emit(SequenceOutput(request_id=request_ids[1], finish_reason="error", error=error))
        with pytest.raises(ServingError) as caught:
            await anext(stream)
        assert caught.value.code == ("server_error" if way == "failed" else "deadline_exceeded")
        request_ids = request_ids[: 1 if way == "failed" else 2]
    assert link.aborted == request_ids
    assert (model.admission.num_held, gateway.num_active, model.replicas.num_in_flight(link)) == (0, 0, 0)


async def test_a_stream_dropped_on_another_thread_is_given_back_on_its_own(gateway: Gateway, link: FakeLink) -> None:
    streams = [await _open(gateway)]
    await asyncio.to_thread(streams.clear)
    await asyncio.sleep(0)
    assert (len(link.aborted), gateway.num_active) == (1, 0)


async def test_errors_of_admission_come_from_the_first_await(gateway: Gateway) -> None:
    for fields, code in (({"n": 1, "best_of": 2}, "unsupported_parameter"), ({"prompt": "x" * 99}, "context_length_exceeded")):
        with pytest.raises(ServingError) as caught:
            await _open(gateway, **fields)
        assert caught.value.code == code
    assert gateway.num_active == 0


async def test_a_failing_request_leaves_its_neighbours_alone(gateway: Gateway, link: FakeLink) -> None:
    good, bad = await _open(gateway, "good"), await _open(gateway, "bad")
    good_id, bad_id = (request.request_id for request in link.submitted)
    reads = asyncio.ensure_future(_all(good))
    link.emit(SequenceOutput(request_id=good_id, token_ids=ids_of("o")))
    link.emit(SequenceOutput(request_id=bad_id, finish_reason="error", error=OutputError(code="server_error", message="fault")))
    with pytest.raises(ServingError):
        await anext(bad)
    link.emit(SequenceOutput(request_id=good_id, token_ids=ids_of("k"), finish_reason="length"))
    assert _text(await reads) == "ok"


async def test_what_came_before_a_failure_is_shown_before_the_failure(gateway: Gateway, link: FakeLink) -> None:
    stream = await _open(gateway, ["p", "q"])
    first, second = (request.request_id for request in link.submitted)
    link.emit(SequenceOutput(request_id=first, token_ids=ids_of("ok")))
    link.emit(SequenceOutput(request_id=second, token_ids=ids_of("so far")))
    link.emit(SequenceOutput(request_id=second, finish_reason="error", error=OutputError(code="server_error", message="fault")))
    items = [await anext(stream), await anext(stream)]
    assert [(_text(items, 0), _text(items, 1))] == [("ok", "so far")]
    with pytest.raises(ServingError, match="fault"):
        await anext(stream)
    assert (link.aborted, gateway.num_active) == ([first], 0)
