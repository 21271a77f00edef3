"""The contract's error table, row by row: each condition really happens, over all four ways, and means the same on each.

What a row says is written out from the contract, not read from the server's own table.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from attendant.v1 import common_pb2, completion_pb2, inference_service_pb2_grpc
from attendant_server.config import ModelSettings, Settings
from tests.e2e import checkpoints
from tests.e2e.grpc_errors import GrpcError, read_error
from tests.e2e.local_server import ServerThread

CONTEXT = 50_000
"""Long enough that a request which fills it is still busy when the test has looked at another."""
MAX_BODY_BYTES = 100_000
KEY = "correct-horse-battery"
REQUEST_ID = "table-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A condition and what both transports must say. ``prompt`` is a text or token ids; ``state`` is the server's."""

    name: str
    code: str
    http_status: int
    openai_type: str
    grpc_code: grpc.StatusCode
    param: str | None = None
    is_retryable: bool = False
    forbids_retry: bool = False
    model: str = "talker"
    prompt: str | list[int] = "hello"
    sampling: dict[str, Any] = field(default_factory=dict)
    key: str | None = KEY
    timeout_s: str | None = None
    state: str = "idle"


_CALLERS, _OURS = "invalid_request_error", "server_error"
_FILLS_CONTEXT: dict[str, Any] = {"max_tokens": CONTEXT - 100, "ignore_eos": True}
ROWS = (
    Row(
        name="value out of range",
        code="invalid_value",
        http_status=400,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
        param="temperature",
        sampling={"temperature": 3},
    ),
    Row(
        name="not done by this model",
        code="unsupported_parameter",
        http_status=400,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
        param="model",
        model="encoder",
    ),
    Row(
        name="prompt longer than the context",
        code="context_length_exceeded",
        http_status=400,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
        param="prompt",
        prompt="a" * (CONTEXT + 1),
    ),
    Row(
        name="unknown model",
        code="model_not_found",
        http_status=404,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.NOT_FOUND,
        param="model",
        model="nobody",
    ),
    Row(name="no key", code="invalid_api_key", http_status=401, openai_type=_CALLERS, grpc_code=grpc.StatusCode.UNAUTHENTICATED, key=None),
    Row(
        name="wrong key",
        code="invalid_api_key",
        http_status=401,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.UNAUTHENTICATED,
        key=KEY + "x",
    ),
    Row(
        name="body too large",
        code="request_too_large",
        http_status=413,
        openai_type=_CALLERS,
        grpc_code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        prompt="a" * (MAX_BODY_BYTES + 1),
    ),
    Row(
        name="queue full",
        code="queue_full",
        http_status=429,
        openai_type="rate_limit_error",
        grpc_code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        is_retryable=True,
        state="busy",
    ),
    Row(
        name="draining",
        code="not_ready",
        http_status=503,
        openai_type=_OURS,
        grpc_code=grpc.StatusCode.UNAVAILABLE,
        is_retryable=True,
        state="draining",
    ),
    Row(
        name="deadline passed",
        code="deadline_exceeded",
        http_status=504,
        openai_type=_OURS,
        grpc_code=grpc.StatusCode.DEADLINE_EXCEEDED,
        forbids_retry=True,
        sampling={"max_tokens": 4000, "n": 100, "ignore_eos": True},
        timeout_s="0.000001",
    ),
    Row(
        name="our fault",
        code="server_error",
        http_status=500,
        openai_type=_OURS,
        grpc_code=grpc.StatusCode.INTERNAL,
        prompt=[checkpoints.POISON_ID],
    ),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSettings, ...]:
    home = tmp_path_factory.mktemp("error-table")
    decoder = checkpoints.write_llama(home / "llama", max_len=CONTEXT)
    encoder = checkpoints.write_bert_encoder(home / "encoder")
    return (ModelSettings(name="talker", path=str(decoder)), ModelSettings(name="encoder", path=str(encoder)))


@contextmanager
def _serve(models: tuple[ModelSettings, ...], key_file: Path) -> Iterator[ServerThread]:
    key_file.write_text(f"tester: {KEY}\n")
    settings = Settings(
        models=models,
        http_port=0,
        grpc_port=0,
        device="cpu",
        max_queue=1,
        kv_cache_memory=64 * 2**20,
        max_body_bytes=MAX_BODY_BYTES,
        api_key_file=str(key_file),
        local=True,
    )
    with ServerThread(settings) as server:
        yield server


@pytest.fixture(scope="module")
def server(models: tuple[ModelSettings, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with _serve(models, tmp_path_factory.mktemp("keys") / "keys") as server:
        yield server


@pytest.fixture(scope="module")
def draining_server(models: tuple[ModelSettings, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with _serve(models, tmp_path_factory.mktemp("keys") / "keys") as server:
        server.call(lambda: server.server.gateway.start_draining())
        yield server


def _http_body(row: Row, *, stream: bool) -> dict[str, Any]:
    return {"model": row.model, "prompt": row.prompt, "max_tokens": 4, "stream": stream} | row.sampling


def _headers(row: Row) -> dict[str, str]:
    headers = {"x-request-id": REQUEST_ID}
    if row.key is not None:
        headers["authorization"] = f"Bearer {row.key}"
    if row.timeout_s is not None:
        headers["x-request-timeout-s"] = row.timeout_s
    return headers


def _http_error(server: ServerThread, row: Row, *, stream: bool) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json=_http_body(row, stream=stream), headers=_headers(row), timeout=30)


def _grpc_error(server: ServerThread, row: Row, *, stream: bool) -> GrpcError:
    prompt = (
        common_pb2.Prompt(text=row.prompt)
        if isinstance(row.prompt, str)
        else common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=row.prompt))
    )
    sampling = common_pb2.SamplingParams(**({"max_tokens": 4} | row.sampling))
    request = completion_pb2.CompleteRequest(model=row.model, prompts=[prompt], sampling=sampling)
    metadata = tuple(_headers(row).items())
    with grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            if stream:
                list(stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=request), metadata=metadata, timeout=30))
            else:
                stub.Complete(request, metadata=metadata, timeout=30)
    return read_error(caught.value)


@contextmanager
def _held_busy(server: ServerThread) -> Iterator[None]:
    """Keep the one place that there is taken by a stream whose first token has come."""
    row = Row(name="", code="", http_status=0, openai_type="", grpc_code=grpc.StatusCode.OK, sampling=_FILLS_CONTEXT)
    body = _http_body(row, stream=True)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=_headers(row), timeout=30) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield


def _check_served(server: ServerThread) -> None:
    """Assert that a good request is answered, as soon as the place that a gone caller held is free again."""
    row = Row(name="", code="", http_status=0, openai_type="", grpc_code=grpc.StatusCode.OK)
    for _ in range(200):
        response = _http_error(server, row, stream=False)
        if response.status_code != 429:
            break
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_means_the_same_on_both_transports(request: pytest.FixtureRequest, row: Row, stream: bool) -> None:
    server: ServerThread = request.getfixturevalue("draining_server" if row.state == "draining" else "server")
    state: AbstractContextManager[None] = _held_busy(server) if row.state == "busy" else nullcontext()
    with state:
        response = _http_error(server, row, stream=stream)
        error = _grpc_error(server, row, stream=stream)

    shown = response.json()["error"]
    assert (response.status_code, shown["code"], shown["type"], shown["param"]) == (row.http_status, row.code, row.openai_type, row.param)
    assert response.headers["x-request-id"] == REQUEST_ID
    assert ("retry-after" in response.headers) == row.is_retryable
    assert not row.is_retryable or int(response.headers["retry-after"]) >= 1
    assert response.headers.get("x-should-retry") == ("false" if row.forbids_retry else None)
    assert ("www-authenticate" in response.headers) == (row.http_status == 401)

    assert (error.code, error.reason, error.param, error.request_id) == (row.grpc_code, row.code, row.param, REQUEST_ID), error
    assert (error.retry_after_s is not None) == row.is_retryable
    assert not row.is_retryable or 0 < float(error.retry_after_s or 0) <= int(response.headers["retry-after"])
    assert error.violated_fields == ((row.param,) if row.http_status == 400 else ())
    if row.code != "request_too_large":  # a "body" here is a "request" there
        assert _without_numbers(error.message) == _without_numbers(shown["message"])
    if row.state != "draining":
        _check_served(server)


def _without_numbers(message: str) -> str:
    """The two transports measure a body, or a wait, in figures of their own."""
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", message)


@pytest.mark.parametrize("row", [row for row in ROWS if row.http_status >= 500 or row.http_status == 401], ids=lambda row: row.name)
def test_nothing_of_ours_is_told(request: pytest.FixtureRequest, row: Row) -> None:
    server: ServerThread = request.getfixturevalue("draining_server" if row.state == "draining" else "server")
    text = _http_error(server, row, stream=False).text
    assert not [leak for leak in ("Traceback", "attendant_", "site-packages", ".py", "/tmp", "torch", KEY) if leak in text], text


def test_a_draining_server_says_so_to_probes_too(draining_server: ServerThread) -> None:
    ready = httpx.get(f"{draining_server.url}/ready")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
    assert int(ready.headers["retry-after"]) >= 1
    assert httpx.get(f"{draining_server.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ],
)
def test_routes_that_there_are_not_answer_in_the_same_shape(server: ServerThread, method: str, path: str, status: int, code: str) -> None:
    response = httpx.request(method, f"{server.url}{path}", headers={"authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert httpx.request(method, f"{server.url}{path}").status_code == 401
