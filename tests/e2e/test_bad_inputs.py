"""Every bad input gets its clear error over both transports, and the next good request gets its answer."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from attendant.v1 import inference_service_pb2_grpc
from tests.e2e import checkpoints
from tests.e2e.bad_input import COMPLETIONS, CONTEXT, ENCODER_CONTEXT, MAX_BODY_BYTES, BadInput, complete, text_prompt
from tests.e2e.bad_inputs import BAD_INPUTS
from tests.e2e.grpc_errors import read_error
from tests.e2e.server_process import ServerProcess

_GOOD = complete(text_prompt("hello"), sampling={"temperature": 0, "max_tokens": 8}).message
_LEAKS = ("Traceback", "attendant_", "site-packages", ".py", "pydantic", "Error:", "/tmp", "0x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serve two decoders, an encoder and a classifier in one process."""
    home = tmp_path_factory.mktemp("bad-inputs")
    models = {
        "talker": checkpoints.write_llama(home / "llama", chat_template=checkpoints.LOOPING_TEMPLATE, max_len=CONTEXT),
        "plain": checkpoints.write_gpt2(home / "gpt2", max_len=CONTEXT),
        "encoder": checkpoints.write_bert_encoder(home / "encoder", max_len=ENCODER_CONTEXT),
        "classifier": checkpoints.write_bert_classifier(home / "classifier", max_len=ENCODER_CONTEXT),
    }
    named = [f"{name}={path}" for name, path in models.items()]
    process = ServerProcess(*named, "--local", "--http-port", "0", "--grpc-port", "0", log_dir=home)
    try:
        process.wait_ready(60)
        yield process
    finally:
        assert process.stop() == 0
    assert "Traceback" not in process.stderr, process.stderr


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return inference_service_pb2_grpc.InferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected_text(stub: Any) -> str:
    """What a good request is answered before anything bad was sent."""
    return str(stub.Complete(_GOOD).completions[0].text)


def _check_sentence(message: str, bad: BadInput) -> None:
    missing = [word for word in bad.words if word not in message]
    assert not missing, f"the sentence lacks {missing}: {message}"
    assert len(message) < 500 and "\n" not in message, message
    leaks = [leak for leak in _LEAKS if leak in message]
    assert not leaks, f"{leaks} in: {message}"


def _send(http: httpx.Client, bad: BadInput) -> httpx.Response:
    if bad.raw is None:
        return http.request(bad.method, bad.path, json=bad.body, headers=dict(bad.headers))
    headers = {"content-type": "application/json"} | dict(bad.headers)
    return http.request(bad.method, bad.path, content=bad.raw, headers={name: value for name, value in headers.items() if value})


def _answer_of(http: httpx.Client) -> str:
    body = {"model": "talker", "prompt": "hello", "max_tokens": 8, "temperature": 0}
    response = http.post(COMPLETIONS, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


@pytest.mark.parametrize("bad", [bad for bad in BAD_INPUTS if bad.has_http], ids=lambda bad: bad.name)
def test_a_bad_input_over_http_gets_its_error_and_the_next_request_its_answer(
    http: httpx.Client, expected_text: str, bad: BadInput
) -> None:
    response = _send(http, bad)
    shown = response.json()
    assert set(shown) == {"error"} and set(shown["error"]) == {"message", "type", "param", "code"}
    error = shown["error"]
    assert (response.status_code, error["code"], error["param"]) == (bad.http_status, bad.code, bad.param), error
    assert error["type"] == "invalid_request_error"
    assert response.headers["x-request-id"] and response.headers["content-type"] == "application/json"
    _check_sentence(error["message"], bad)
    assert _answer_of(http) == expected_text


@pytest.mark.parametrize("bad", [bad for bad in BAD_INPUTS if bad.rpc is not None], ids=lambda bad: bad.name)
def test_a_bad_input_over_grpc_gets_the_same_error_and_the_next_request_its_answer(stub: Any, expected_text: str, bad: BadInput) -> None:
    assert bad.rpc is not None
    with pytest.raises(grpc.RpcError) as caught:
        answer = getattr(stub, bad.rpc.method)(bad.rpc.message, metadata=bad.metadata, timeout=30)
        list(answer)
    error = read_error(caught.value)
    assert error.code == bad.grpc_code, error.message
    if error.reason is None:
        # Above twice the limit the transport itself refuses, before anything of ours is asked.
        assert bad.code == "request_too_large"
    else:
        assert (error.reason, error.param) == (bad.code, bad.param), error.message
        assert (bad.param in error.violated_fields) == (bad.grpc_code == grpc.StatusCode.INVALID_ARGUMENT and bad.param is not None)
        _check_sentence(error.message, bad)
    assert stub.Complete(_GOOD).completions[0].text == expected_text


def test_the_table_has_at_least_sixty_rows_of_distinct_names() -> None:
    names = [bad.name for bad in BAD_INPUTS]
    assert len(set(names)) == len(names) >= 60
    assert all(bad.has_http or bad.rpc is not None for bad in BAD_INPUTS)


def test_a_body_that_grows_too_large_unannounced_is_refused_while_it_comes(http: httpx.Client, expected_text: str) -> None:
    chunk = b"a" * 2**20
    response = http.post(COMPLETIONS, content=(chunk for _ in range(10)), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]
    assert _answer_of(http) == expected_text


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ufeff", "\U0001f600\u200d", "\x1b[2J", "<|poison", "e\u0301", "\r\n\t"])
def test_odd_text_that_is_valid_unicode_is_read_as_it_is(http: httpx.Client, stub: Any, text: str) -> None:
    tokens = http.post("/tokenize", json={"model": "talker", "prompt": text}).json()["tokens"]
    assert http.post("/detokenize", json={"model": "talker", "tokens": tokens}).json()["prompt"] == text
    answers = http.post(COMPLETIONS, json={"model": "talker", "prompt": text, "max_tokens": 4, "temperature": 0, "echo": True})
    assert answers.status_code == 200
    assert answers.json()["choices"][0]["text"].startswith(text)
    assert stub.Complete(complete(text_prompt(text)).message).usage.prompt_tokens == len(tokens)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1e-300},
        {"temperature": 2, "top_p": 1e-300},
        {"temperature": 1e-5, "repetition_penalty": 1e-300},
        {"repetition_penalty": 1e-40, "min_tokens": 4},
        {"repetition_penalty": 10, "presence_penalty": 2, "frequency_penalty": -2},
        {"min_p": 1, "top_k": 1_000_000},
        {"logit_bias": {str(token_id): -100 for token_id in range(checkpoints.DECODER_VOCAB_SIZE)}, "stop_token_ids": [7]},
        {"logit_bias": {str(token_id): 100 for token_id in range(checkpoints.POISON_ID)}, "seed": -(2**63)},
        {"seed": 2**63 - 1, "n": 16, "best_of": 16, "top_k": 200},
        {"max_tokens": 0},
        {"max_tokens": 10_000_000, "stop": [" "] * 16},
    ],
    ids=lambda sampling: " ".join(sampling),
)
def test_values_at_their_bounds_are_served(http: httpx.Client, sampling: dict[str, Any]) -> None:
    never_poison = {"logit_bias": {str(checkpoints.POISON_ID): -100}}
    body = {"model": "talker", "prompt": "hello", "max_tokens": 4, "seed": 1} | never_poison | sampling
    response = http.post(COMPLETIONS, json=body)
    assert response.status_code == 200, response.text
    assert all(choice["finish_reason"] in ("stop", "length") for choice in response.json()["choices"])


@pytest.mark.parametrize(
    "method", ["Complete", "StreamComplete", "Chat", "Embed", "Classify", "FewShot", "Tokenize", "Detokenize", "GetModel"]
)
def test_random_and_mutated_bytes_are_never_the_servers_fault(channel: grpc.Channel, stub: Any, expected_text: str, method: str) -> None:
    dice = random.Random(method)
    path = f"/attendant.v1.InferenceService/{method}"
    call: Any = channel.unary_stream(path) if method.startswith("Stream") else channel.unary_unary(path)
    good = _GOOD.SerializeToString()
    codes = set()
    for number in range(60):
        data = dice.randbytes(dice.randrange(1, 200)) if number % 2 else _mutated(dice, good)
        try:
            answer = call(data, timeout=30)
            if method.startswith("Stream"):
                list(answer)
        except grpc.RpcError as error:
            codes.add(read_error(error).code)
    # Bytes that happen to be a message may be answered, or name a model that is not there.
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED}, codes
    assert stub.Complete(_GOOD).completions[0].text == expected_text


def _mutated(dice: random.Random, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(len(data))
        data[place : place + dice.randrange(2)] = dice.randbytes(dice.randrange(3))
    return bytes(data)


def test_an_unknown_rpc_is_unimplemented(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/attendant.v1.InferenceService/Nonsense")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=30)
    assert read_error(caught.value).code == grpc.StatusCode.UNIMPLEMENTED


def test_a_streamed_bad_request_is_refused_before_the_stream_begins(http: httpx.Client) -> None:
    response = http.post(COMPLETIONS, json={"model": "talker", "prompt": "a" * 300, "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_request_id_that_is_no_id_is_replaced(http: httpx.Client) -> None:
    for given in (b"a b", b"x" * 129, b"\xc3\xa9"):
        response = http.get("/v1/models", headers={b"x-request-id": given})
        assert response.status_code == 200
        assert response.headers["x-request-id"].isalnum()
