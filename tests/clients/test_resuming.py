"""A server that is lost and comes back: streams go on behind their last piece, other calls are made again."""

import threading
from collections.abc import Iterator

import pytest

from attendant_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    InvalidRequestError,
    NotReadyError,
    RetryPolicy,
    StreamTruncatedError,
)
from attendant_server.errors import ServingError
from attendant_server.gateway.requests import ReceivedOutput, Resume
from tests.clients.conftest import FAST, RunningServer, start_server
from tests.server.grpc_api.fakes import FakeGateway

WHOLE = "".join(f"piece{index}" for index in range(6))


@pytest.fixture(autouse=True)
def _gives_a_token(gateway: FakeGateway) -> Iterator[None]:
    gateway.token, gateway.num_pieces = b"token", 6
    yield


def test_a_stream_goes_on_behind_its_last_piece_as_often_as_it_breaks(client: Client, gateway: FakeGateway) -> None:
    gateway.breaks_before = [1, 2, 3, 4, 5]
    stream = client.stream_complete("tiny", "a", request_id="id")
    assert "".join(piece.text for piece in stream) == WHOLE
    assert stream.summary.id == "id.5"
    assert gateway.resumes[0] is None
    assert gateway.resumes[1:] == [
        Resume(token=b"token", outputs=(ReceivedOutput(index=0, token_ids=tuple(range(count))),)) for count in range(1, 6)
    ]
    gateway.breaks_before = [3]
    assert "".join(piece.content for piece in client.stream_chat("tiny", "hi")) == WHOLE


async def test_async_streams_do_too(running: RunningServer) -> None:
    running.gateway.breaks_before = [2, 4, 1, 3]
    async with AsyncClient(running.url, retry=FAST) as client:
        assert "".join([piece.text async for piece in client.stream_complete("tiny", "a")]) == WHOLE
        running.gateway.breaks_before = [4]
        assert "".join([piece.content async for piece in client.stream_chat("tiny", "a")]) == WHOLE


async def test_a_stream_whose_last_message_is_missing_asks_for_what_is_left(running: RunningServer) -> None:
    gateway = running.gateway
    gateway.num_cut_short = 2
    with Client(running.url, retry=FAST) as client:
        stream = client.stream_complete("tiny", "a")
        assert "".join(piece.text for piece in stream) == WHOLE
    gateway.num_cut_short = 2
    async with AsyncClient(running.url, retry=FAST) as async_client:
        chat = async_client.stream_chat("tiny", "a")
        assert "".join([piece.content async for piece in chat]) == WHOLE
    assert stream.summary.usage == chat.summary.usage
    assert [len(resume.outputs[0].token_ids) if resume else None for resume in gateway.resumes] == [None, 6, 6] * 2


@pytest.mark.parametrize("way", ["resume=False", "no token", "one attempt"])
def test_a_stream_that_may_not_or_cannot_be_resumed_ends_with_the_error(running: RunningServer, way: str) -> None:
    gateway = running.gateway
    gateway.breaks_before = [1]
    gateway.token = b"" if way == "no token" else b"token"
    with Client(running.url, retry=RetryPolicy(max_attempts=1) if way == "one attempt" else FAST) as client:
        stream = client.stream_complete("tiny", "a", resume=way != "resume=False")
        assert next(stream).text == "piece0"
        with pytest.raises(NotReadyError):
            next(stream)
        assert list(stream) == []
    assert gateway.resumes == [None]


def test_a_stream_that_would_go_on_with_other_tokens_is_a_part_and_says_why(client: Client, gateway: FakeGateway) -> None:
    gateway.breaks_before = [1]
    stream = client.stream_complete("tiny", "a")
    assert next(stream).text == "piece0"
    gateway.error = ServingError("invalid_value", "other tokens would follow", param="resume")
    with pytest.raises(StreamTruncatedError, match="Other tokens would follow"):
        next(stream)
    assert list(stream) == []
    with pytest.raises(InvalidRequestError):
        next(client.stream_complete("tiny", "a"))


def test_a_client_waits_for_a_server_that_was_there(running: RunningServer) -> None:
    first, stop_first = start_server()
    port = int(first.url.rpartition(":")[2])
    first.gateway.token, first.gateway.num_pieces = b"token", 10_000_000
    with Client(first.url) as client:
        stream = client.stream_complete("tiny", "a")
        texts = [next(stream).text]
        stop_first()
        answers: list[str] = []
        asks = threading.Thread(target=lambda: answers.append(client.complete("tiny", "b").completions[0].text))
        asks.start()
        second, stop_second = start_server(port)
        second.gateway.num_pieces = 10_000
        try:
            texts += [piece.text for piece in stream]
            asks.join(30)
        finally:
            stop_second()
        assert texts == [f"piece{index}" for index in range(10_000)]
        assert answers == ["echo:b"]


def test_how_long_a_lost_server_is_waited_for_is_the_policys(running: RunningServer) -> None:
    server, stop = start_server()
    with Client(server.url, retry=RetryPolicy(initial_backoff_s=0.001, recover_within_s=0.0)) as client:
        assert client.complete("tiny", "a").completions
        stop()
        with pytest.raises(ConnectionFailedError):
            client.complete("tiny", "a")
