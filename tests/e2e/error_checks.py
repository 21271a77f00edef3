"""The contract's error table over real sockets: each condition made to happen on both transports, with one meaning."""

from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2

from attendant.v1 import common_pb2, completion_pb2, embedding_pb2, inference_service_pb2_grpc
from tests.e2e.callers import MODEL, open_callers
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One condition: what is sent on either transport, and what both must answer."""

    name: str
    body: dict[str, Any]
    message: completion_pb2.CompleteRequest | embedding_pb2.EmbedRequest
    http_status: int
    code: str
    grpc_code: grpc.StatusCode
    param: str | None = None
    path: str = "/v1/completions"
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


def _prompts(*texts: str) -> list[common_pb2.Prompt]:
    return [common_pb2.Prompt(text=text) for text in texts]


_LONG = "a story " * 400
ROWS = (
    Row(
        name="value out of range",
        body={"model": MODEL, "prompt": "a", "temperature": 3},
        message=completion_pb2.CompleteRequest(model=MODEL, prompts=_prompts("a"), sampling=common_pb2.SamplingParams(temperature=3)),
        http_status=400,
        code="invalid_value",
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
        param="temperature",
    ),
    Row(
        name="not done by this model",
        path="/v1/embeddings",
        body={"model": MODEL, "input": "a", "dimensions": 7},
        message=embedding_pb2.EmbedRequest(model=MODEL, inputs=_prompts("a"), dimensions=7),
        http_status=400,
        code="unsupported_parameter",
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
    ),
    Row(
        name="prompt longer than the context",
        body={"model": MODEL, "prompt": _LONG},
        message=completion_pb2.CompleteRequest(model=MODEL, prompts=_prompts(_LONG)),
        http_status=400,
        code="context_length_exceeded",
        grpc_code=grpc.StatusCode.INVALID_ARGUMENT,
    ),
    Row(
        name="unknown model",
        body={"model": "nobody", "prompt": "a"},
        message=completion_pb2.CompleteRequest(model="nobody", prompts=_prompts("a")),
        http_status=404,
        code="model_not_found",
        grpc_code=grpc.StatusCode.NOT_FOUND,
    ),
    Row(
        name="body too large",
        body={"model": MODEL, "prompt": "a" * 9_000_000},
        message=completion_pb2.CompleteRequest(model=MODEL, prompts=_prompts("a" * 9_000_000)),
        http_status=413,
        code="request_too_large",
        grpc_code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    ),
    Row(
        name="deadline that cannot be met",
        body={"model": MODEL, "prompt": "a", "max_tokens": 400, "ignore_eos": True, "n": 8},
        message=completion_pb2.CompleteRequest(
            model=MODEL, prompts=_prompts("a"), sampling=common_pb2.SamplingParams(max_tokens=400, ignore_eos=True, n=8)
        ),
        headers={"x-request-timeout-s": "0.01"},
        timeout_s=0.01,
        http_status=504,
        code="deadline_exceeded",
        grpc_code=grpc.StatusCode.DEADLINE_EXCEEDED,
    ),
)


async def grpc_error(server: ServerProcess, row: Row, **metadata: str) -> grpc.aio.AioRpcError:
    """Send a row over gRPC and return the error that must come back."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        pairs = tuple(metadata.items())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if isinstance(row.message, embedding_pb2.EmbedRequest):
                await stub.Embed(row.message, timeout=row.timeout_s, metadata=pairs)
            else:
                await stub.Complete(row.message, timeout=row.timeout_s, metadata=pairs)
    return caught.value


async def http_error(server: ServerProcess, row: Row, **headers: str) -> httpx.Response:
    """Send a row over HTTP and return the answer."""
    async with httpx.AsyncClient(base_url=server.http_url, timeout=60) as client:
        return await client.post(row.path, json=row.body, headers=row.headers | headers)


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Return the ``google.rpc.ErrorInfo`` that an error carries."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info


class ErrorChecks:
    """Each row by both transports, then a good request."""

    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
    async def test_an_error_means_the_same_on_both_transports_and_the_next_good_request_succeeds(
        self, server: ServerProcess, row: Row
    ) -> None:
        response = await http_error(server, row)
        shown = response.json()["error"]
        assert (response.status_code, shown["code"]) == (row.http_status, row.code), shown
        if row.param is not None:
            assert shown["param"] == row.param
        assert response.headers["x-request-id"]
        error = await grpc_error(server, row)
        assert error.code() == row.grpc_code, error.details()
        if row.timeout_s is None:
            # A deadline ends the call at the client, with no word from the server.
            info = error_info(error)
            assert info.reason == row.code
            if row.param is not None:
                assert info.metadata["param"].rpartition(".")[2] == row.param
        question = Question(start=3, length=8)
        async with open_callers(server) as callers:
            for caller in callers.values():
                question.check(await caller.greedy(question.prompt, question.length))

    async def test_a_body_that_is_no_message_is_the_callers_fault(self, server: ServerProcess) -> None:
        async with httpx.AsyncClient(base_url=server.http_url) as client:
            response = await client.post("/v1/completions", content=b"{not json", headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/attendant.v1.InferenceService/Complete")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()

    async def test_the_callers_request_id_comes_back_on_both_transports(self, server: ServerProcess) -> None:
        row = next(row for row in ROWS if row.code == "model_not_found")
        response = await http_error(server, row, **{"x-request-id": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        error = await grpc_error(server, row, **{"x-request-id": "mine-2"})
        assert dict(error.trailing_metadata() or ())["x-request-id"] == "mine-2"
