"""The blocking client: every task, typed results, errors as one tree, streams that cannot be mistaken for whole."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

from attendant_client import (
    AttendantError,
    AuthenticationError,
    Client,
    CompleteOptions,
    ConnectionFailedError,
    DeadlineExceededError,
    FewShotExample,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    QueueFullError,
    RequestTooLargeError,
    RetryPolicy,
    ServerError,
    StreamTruncatedError,
)
from attendant_client.errors import ERROR_BY_CODE
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.status import STATUS_TABLE
from tests.clients.conftest import FAST, RunningServer
from tests.server.grpc_api.fakes import CARD, FakeGateway


def test_complete_returns_typed_frozen_results(client: Client, gateway: FakeGateway) -> None:
    options: CompleteOptions = {
        "max_tokens": 4,
        "temperature": 0,
        "stop": "x",
        "logit_bias": {3: 1.0},
        "logprobs": 1,
        "echo": True,
        "priority": 2,
    }
    answer = client.complete("tiny", ["a", "b"], **options)
    assert [completion.text for completion in answer.completions] == ["echo:a", "echo:b"]
    first = answer.completions[0]
    assert (first.token_ids, first.finish_reason, first.stop_text, first.stop_token_id) == ((5, 6), "stop", "\n", None)
    assert [position.logprob for position in first.logprobs] == [-0.5, None]
    assert (answer.usage.cached_tokens, answer.receipt.seed, answer.timing.queue_s) == (1, 7, 0.25)
    asked, call = gateway.calls[0]
    assert (asked.max_tokens, asked.temperature, asked.stop_texts, asked.logit_bias) == (4, 0.0, ("x",), {"3": 1.0})
    assert (asked.echo, asked.priority, answer.id) == (True, 2, call.request_id)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.model = "other"  # type: ignore[misc]


def test_a_prompt_may_be_token_ids_or_several_of_them(client: Client, gateway: FakeGateway) -> None:
    client.complete("tiny", [1, 2], seed=None)
    client.complete("tiny", [[1], [2, 3]])
    assert gateway.calls[0][0].prompts == [[1, 2]]
    assert gateway.calls[1][0].prompts == [[1], [2, 3]]


def test_a_stream_yields_pieces_and_ends_with_its_summary(client: Client) -> None:
    stream = client.stream_complete("tiny", "a")
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = stream.summary
    assert [(piece.text, piece.finish_reason) for piece in stream] == [("piece0", None), ("piece1", "length")]
    assert stream.summary.usage.completion_tokens == 2
    assert list(stream) == []
    chat = client.stream_chat("tiny", "hi")
    assert "".join(piece.content for piece in chat) == "piece0piece1"
    assert chat.summary.receipt.dtype == "float32"


def test_chat_takes_a_string_tuples_or_mappings(client: Client, gateway: FakeGateway) -> None:
    assert client.chat("tiny", "hi").choices[0].content == "re:hi"
    client.chat("tiny", [("system", "be brief"), {"role": "user", "content": "hi"}], max_tokens=5)
    assert [(turn.role, turn.content) for turn in gateway.calls[1][0].messages] == [("system", "be brief"), ("user", "hi")]


def test_the_other_tasks(client: Client, gateway: FakeGateway) -> None:
    assert client.embed("tiny", ["a", "b"], pooling="cls").vectors == ((0.0, 0.5), (1.0, 0.5))
    assert client.classify("tiny", [("a", "b")]).classifications[0].probs == {"bad": 0.25, "good": 0.75}
    assert client.classify("tiny", "a").classifications[0].label == "good"
    examples: list[tuple[str, str] | FewShotExample] = [("1", "2"), FewShotExample("2", "3", "add")]
    answer = client.few_shot("tiny", queries="3", examples=examples, labels=["yes", "no"]).answers[0]
    assert (answer.label, answer.probs, answer.logprobs) == ("yes", {"yes": 0.9, "no": 0.1}, {"yes": -0.1, "no": -2.3})
    assert client.few_shot("tiny", queries=["3"], max_tokens=4).answers[0].label is None
    assert client.tokenize("tiny", "ab").tokens == ("a", "b")
    assert client.detokenize("tiny", [1, 2]) == "1,2"
    assert [model.id for model in client.list_models()] == ["tiny"]
    assert client.get_model("tiny").embedding_size is None


def test_the_tree_is_the_inverse_of_the_servers_table() -> None:
    assert ERROR_BY_CODE.keys() == STATUS_TABLE.keys()


@pytest.mark.parametrize("code", sorted(ERROR_BY_CODE))
def test_every_error_of_the_server_is_raised_as_its_class(running: RunningServer, code: ErrorCode) -> None:
    running.gateway.error = ServingError(code, "A sentence.", param="prompt", retry_after_s=1.5)
    with Client(running.url, retry=RetryPolicy(max_attempts=1)) as client, pytest.raises(AttendantError) as caught:
        client.complete("tiny", "a", request_id="my-id")
    error = caught.value
    assert type(error) is ERROR_BY_CODE[code]
    assert (error.code, error.message, error.param, error.request_id) == (code, "A sentence.", "prompt", "my-id")
    assert error.retry_after_s == 1.5


def test_unavailable_is_retried_and_the_retry_has_an_id_of_its_own(client: Client, gateway: FakeGateway) -> None:
    gateway.errors = [ServingError("not_ready", "loading", retry_after_s=0.001)] * 2
    assert client.complete("tiny", "a", request_id="id").completions[0].text == "echo:a"
    assert [call.request_id for _, call in gateway.calls] == ["id", "id.1", "id.2"]


def test_a_stream_is_retried_before_its_first_piece_and_never_after(client: Client, gateway: FakeGateway) -> None:
    gateway.errors = [ServingError("not_ready", "loading", retry_after_s=0.001)]
    assert len(list(client.stream_complete("tiny", "a"))) == 2
    gateway.fails_after = 1
    stream = client.stream_complete("tiny", "a")
    assert next(stream).text == "piece0"
    with pytest.raises(NotReadyError):
        next(stream)
    assert list(stream) == []
    assert len(gateway.calls) == 3


def test_retries_end_with_the_policy(running: RunningServer) -> None:
    running.gateway.error = ServingError("not_ready", "loading", retry_after_s=0.001)
    with Client(running.url, retry=RetryPolicy(max_attempts=3, initial_backoff_s=0.001)) as client, pytest.raises(NotReadyError):
        client.embed("tiny", "a")
    assert len(running.gateway.calls) == 3


def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(client: Client, gateway: FakeGateway) -> None:
    gateway.error = ServingError("not_ready", "loading", retry_after_s=3600)
    with pytest.raises(NotReadyError, match="Loading"):
        client.embed("tiny", "a", timeout_s=30)
    assert len(gateway.calls) == 1


@pytest.mark.parametrize("error", [ServingError("queue_full", "full"), ServingError("invalid_value", "bad"), RuntimeError("a bug")])
def test_what_is_not_unavailable_is_not_retried(client: Client, gateway: FakeGateway, error: Exception) -> None:
    gateway.error = error
    with pytest.raises((QueueFullError, InvalidRequestError, ServerError)):
        client.embed("tiny", "a")
    assert len(gateway.calls) == 1


def test_a_stream_without_its_last_message_is_an_error_not_a_short_answer(client: Client, gateway: FakeGateway) -> None:
    gateway.is_cut_short = True
    stream = client.stream_complete("tiny", "a")
    texts: list[str] = []
    with pytest.raises(StreamTruncatedError):
        texts.extend(piece.text for piece in stream)
    with pytest.raises(StreamTruncatedError):
        for _ in client.stream_chat("tiny", "a"):
            pass


def test_closing_a_stream_cancels_it_on_the_server(client: Client, running: RunningServer) -> None:
    running.gateway.num_pieces = 10_000_000
    with client.stream_complete("tiny", "a") as stream:
        assert next(stream).text == "piece0"
    running.wait_for(running.gateway.ended)
    assert list(stream) == []


def test_a_stream_closed_by_another_thread_just_ends(client: Client, running: RunningServer) -> None:
    running.gateway.is_holding = True
    stream = client.stream_complete("tiny", "a")
    pieces: list[Any] = []
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    running.wait_for(running.gateway.started)
    stream.close()
    reader.join(5)
    assert not reader.is_alive() and pieces == []


def test_a_deadline_is_typed_and_reaches_the_server(client: Client, running: RunningServer) -> None:
    running.gateway.is_holding = True
    with pytest.raises(DeadlineExceededError, match="timeout_s"):
        client.complete("tiny", "a", timeout_s=0.1)
    running.wait_for(running.gateway.ended)
    assert running.gateway.calls[0][1].deadline_s is not None


def test_the_key_is_sent_and_a_wrong_one_is_an_authentication_error(running: RunningServer) -> None:
    running.gateway.key = "sesame"
    with Client(running.url, api_key="sesame") as client:
        client.tokenize("tiny", "a")
    with Client(running.url) as client, pytest.raises(AuthenticationError):
        client.tokenize("tiny", "a")


def test_a_request_over_the_limit_is_typed_however_large(client: Client) -> None:
    for size in (20_001, 2_000_000):
        with pytest.raises(RequestTooLargeError):
            client.complete("tiny", "x" * size)


def test_an_unknown_model_is_typed(client: Client) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        client.get_model("nobody")
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda client: client.complete("tiny", "a", max_tokens=-1), "max_tokens"),
        (lambda client: client.complete("tiny", "a", temperature="hot"), "temperature"),
        (lambda client: client.complete("tiny", "\ud800"), "prompt"),
        (lambda client: client.complete("tiny", [-1]), "prompt"),
        (lambda client: client.complete("tiny", "a", topk=3), "topk"),
        (lambda client: client.chat("tiny", "a", echo=True), "echo"),
        (lambda client: client.chat("tiny", [{"role": "user"}, {"who": "me"}]), "messages"),
        (lambda client: client.embed("tiny", "a", pooling="max"), "pooling"),
        (lambda client: client.embed("tiny", "a", dimensions=-1), "dimensions"),
        (lambda client: client.few_shot("tiny", queries=["a"], seed=2**63), "seed"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused_before_it_is_sent(
    client: Client, gateway: FakeGateway, call: Callable[[Client], Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.param == param
    assert gateway.calls == []


def test_nothing_at_the_address_is_a_connection_error(unused_port: int) -> None:
    with Client(f"127.0.0.1:{unused_port}", retry=RetryPolicy(max_attempts=2, initial_backoff_s=0.001)) as client:
        with pytest.raises(ConnectionFailedError, match=str(unused_port)):
            client.complete("tiny", "a")
        assert not client.is_ready()
        with pytest.raises(NotReadyError, match="not ready within"):
            client.wait_ready(timeout_s=0.01)


def test_readiness_of_the_server_and_of_each_model(client: Client, gateway: FakeGateway) -> None:
    gateway.key = "none is needed for this"
    client.wait_ready()
    assert client.is_ready("tiny") and not client.is_ready("nobody")
    gateway.ready = False
    gateway.cards = [dataclasses.replace(CARD, is_ready=False)]
    assert not client.is_ready() and not client.is_ready("tiny")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "localhost", "a b:1", "127.0.0.1:99999", "", "127.0.0.1:9000/x"])
def test_an_address_that_is_none_says_what_one_looks_like(url: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Client(url)


def test_an_address_may_name_its_scheme(running: RunningServer) -> None:
    with Client(f"grpc://{running.url}/", retry=FAST) as client:
        assert client.is_ready()
