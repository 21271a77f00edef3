"""Errors over gRPC: the code of the one table, a sentence, and google.rpc details that programs can read."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from pydantic import ValidationError

from attendant.v1 import chat_pb2, common_pb2, completion_pb2, embedding_pb2, few_shot_pb2, models_pb2, tokenization_pb2
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.gateway.requests import ChatRequest, CompletionRequest, FewShotRequest
from attendant_server.grpc_api.call import rich_status, shorten
from attendant_server.status import STATUS_TABLE, make_view, view_error
from tests.server.grpc_api.conftest import MAX_BODY_BYTES
from tests.server.grpc_api.fakes import FakeGateway


def _complete(*texts: str, **sampling: Any) -> completion_pb2.CompleteRequest:
    prompts = [common_pb2.Prompt(text=text) for text in texts]
    return completion_pb2.CompleteRequest(model="tiny", prompts=prompts, sampling=common_pb2.SamplingParams(**sampling))


def _details(error: grpc.aio.AioRpcError) -> tuple[status_pb2.Status, dict[str, Any]]:
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo, error_details_pb2.RequestInfo)
    found: dict[str, Any] = {}
    for packed in status.details:
        for kind in kinds:
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    return status, found


@pytest.mark.parametrize("code", sorted(STATUS_TABLE))
async def test_every_row_of_the_table_arrives_with_its_code_and_details(gateway: FakeGateway, stub: Any, code: ErrorCode) -> None:
    gateway.error = ServingError(code, "A sentence.", param="prompt")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("a"), metadata=(("x-request-id", "my-id"),))
    row = STATUS_TABLE[code]
    status, details = _details(caught.value)
    assert caught.value.code().name == row.grpc_code
    assert status.code == caught.value.code().value[0]
    assert caught.value.details() == status.message == "A sentence."
    assert details["ErrorInfo"].reason == code
    assert details["ErrorInfo"].metadata["param"] == "prompt"
    assert details["RequestInfo"].request_id == "my-id"
    assert ("RetryInfo" in details) == row.is_retryable
    assert ("BadRequest" in details) == (row.grpc_code == "INVALID_ARGUMENT")


async def test_retry_info_says_when_to_come_back(gateway: FakeGateway, stub: Any) -> None:
    gateway.error = ServingError("queue_full", "full", retry_after_s=2.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("a"))
    assert _details(caught.value)[1]["RetryInfo"].retry_delay.ToMilliseconds() == 2500


async def test_an_error_before_a_stream_and_one_inside_it_end_it_with_their_status(gateway: FakeGateway, stub: Any) -> None:
    request = completion_pb2.StreamCompleteRequest(request=_complete("a"))
    gateway.errors = [ServingError("not_ready", "loading")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [piece async for piece in stub.StreamComplete(request)]
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    gateway.fails_after = 1
    pieces = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for piece in stub.StreamComplete(request):
            pieces.append(piece)
    assert [piece.delta.text for piece in pieces] == ["piece0"]
    assert _details(caught.value)[1]["ErrorInfo"].reason == "not_ready"


async def test_our_own_fault_tells_nothing_of_itself(gateway: FakeGateway, stub: Any) -> None:
    gateway.error = RuntimeError("secret path /etc/x")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("a"), metadata=(("x-request-id", "my-id"),))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details()) and "RuntimeError" not in str(caught.value.details())
    assert "my-id" in str(caught.value.details())


@pytest.mark.parametrize(
    ("sampling", "body"),
    [
        ({"temperature": 3.0}, {"temperature": 3.0}),
        ({"temperature": float("nan")}, {"temperature": float("nan")}),
        ({"top_p": 0.0}, {"top_p": 0.0}),
        ({"n": 129}, {"n": 129}),
        ({"n": 0}, {"n": 0}),
        ({"best_of": 4_000_000_000}, {"best_of": 4_000_000_000}),
        ({"logprobs": 21}, {"logprobs": 21}),
        ({"stop": [""]}, {"stop": [""]}),
        ({"stop": ["x"] * 17}, {"stop": ["x"] * 17}),
        ({"logit_bias": {1: float("inf")}}, {"logit_bias": {"1": float("inf")}}),
        ({"logit_bias": {1: 101.0}}, {"logit_bias": {"1": 101.0}}),
    ],
)
async def test_a_value_out_of_range_gets_the_same_sentence_and_param_as_a_json_body(
    gateway: FakeGateway, stub: Any, sampling: dict[str, Any], body: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as expected:
        CompletionRequest.model_validate({"model": "tiny", "prompt": "a", **body})
    view = view_error(expected.value, request_type=CompletionRequest)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("a", **sampling))
    _, details = _details(caught.value)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == view.message
    assert details["BadRequest"].field_violations[0].field == view.param
    assert gateway.calls == []


async def test_a_sampling_field_that_a_task_does_not_have_is_refused_as_over_http(stub: Any) -> None:
    sampling = common_pb2.SamplingParams(top_k=3)
    with pytest.raises(ValidationError) as expected:
        FewShotRequest.model_validate({"model": "tiny", "queries": ["a"], "top_k": 3})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.FewShot(few_shot_pb2.FewShotRequest(model="tiny", queries=["a"], sampling=sampling))
    assert caught.value.details() == view_error(expected.value, request_type=FewShotRequest).message
    assert _details(caught.value)[1]["ErrorInfo"].reason == "unsupported_parameter"
    messages = [chat_pb2.ChatMessage(role="user", content="a")]
    with pytest.raises(ValidationError) as expected:
        ChatRequest.model_validate({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "prompt_logprobs": 1})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Chat(chat_pb2.ChatRequest(model="tiny", messages=messages, sampling=common_pb2.SamplingParams(prompt_logprobs=1)))
    assert caught.value.details() == view_error(expected.value, request_type=ChatRequest).message


@pytest.mark.parametrize(
    ("method", "request_message", "param"),
    [
        ("Complete", completion_pb2.CompleteRequest(model="tiny"), "prompt"),
        ("Complete", completion_pb2.CompleteRequest(prompts=[common_pb2.Prompt(text="a")]), "model"),
        ("Complete", completion_pb2.CompleteRequest(model="tiny", prompts=[common_pb2.Prompt()]), "prompt"),
        (
            "Complete",
            completion_pb2.CompleteRequest(
                model="tiny", prompts=[common_pb2.Prompt(text="a"), common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=[1]))]
            ),
            "prompt",
        ),
        ("Complete", completion_pb2.CompleteRequest(model="tiny", prompts=[common_pb2.Prompt(token_ids=common_pb2.TokenIds())]), "prompt"),
        ("Chat", chat_pb2.ChatRequest(model="tiny"), "messages"),
        ("Embed", embedding_pb2.EmbedRequest(model="tiny"), "input"),
        ("Embed", embedding_pb2.EmbedRequest(model="tiny", inputs=[common_pb2.Prompt(text="a")], pooling=9), "pooling"),  # type: ignore[arg-type]
        ("FewShot", few_shot_pb2.FewShotRequest(model="tiny", queries=["a"], labels=["one"]), "labels"),
        ("GetModel", models_pb2.GetModelRequest(model="nobody"), "model"),
    ],
)
async def test_an_incomplete_request_names_the_field_at_fault(stub: Any, method: str, request_message: Any, param: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request_message)
    info = _details(caught.value)[1]["ErrorInfo"]
    assert info.metadata["param"].split("[")[0] == param
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("method", ["Complete", "StreamComplete"])
async def test_bytes_that_are_no_message_are_the_callers_fault(channel: grpc.aio.Channel, stub: Any, method: str) -> None:
    raw: Any = channel
    path = f"/attendant.v1.InferenceService/{method}"
    for data in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x01\xff"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if method == "Complete":
                await raw.unary_unary(path)(data)
            else:
                _ = [piece async for piece in raw.unary_stream(path)(data)]
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert _details(caught.value)[1]["ErrorInfo"].reason == "invalid_value"
    assert (await stub.Complete(_complete("a"))).completions[0].text == "echo:a"


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 100 * MAX_BODY_BYTES])
async def test_a_request_over_the_limit_is_resource_exhausted_and_the_next_one_is_served(stub: Any, size: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("x" * size))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    if size < 2 * MAX_BODY_BYTES:
        assert _details(caught.value)[1]["ErrorInfo"].reason == "request_too_large"
        assert str(MAX_BODY_BYTES) in str(caught.value.details())
    await stub.Complete(_complete("a"))


async def test_a_key_is_asked_for_everything_and_the_tenant_reaches_the_gateway(gateway: FakeGateway, stub: Any) -> None:
    gateway.key = "sesame"
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        for rpc in (
            stub.Complete(_complete("a"), metadata=metadata),
            stub.ListModels(models_pb2.ListModelsRequest(), metadata=metadata),
            stub.Detokenize(tokenization_pb2.DetokenizeRequest(), metadata=metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    await stub.Complete(_complete("a"), metadata=(("authorization", "Bearer sesame"),))
    assert gateway.calls[0][1].tenant == "tenant-a"


async def test_a_bad_timeout_header_names_itself(stub: Any) -> None:
    for value in ("soon", "-1", "nan", "0"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(_complete("a"), metadata=(("x-request-timeout-s", value),))
        assert _details(caught.value)[1]["ErrorInfo"].metadata["param"] == "x-request-timeout-s"


async def test_the_longest_messages_still_fit_into_trailers(gateway: FakeGateway, stub: Any) -> None:
    gateway.error = ServingError("invalid_value", "\N{GRINNING FACE}" * 5000, param="prompt")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(_complete("a"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ErrorInfo" in _details(caught.value)[1]


def test_a_cut_message_ends_at_a_whole_character() -> None:
    assert shorten("é" * 1000).endswith("é...")
    assert shorten("short") == "short"


def test_an_error_without_a_field_has_no_bad_request() -> None:
    status = rich_status(make_view("invalid_value", "No field."), "No field.", "id")
    assert not any(packed.Is(error_details_pb2.BadRequest.DESCRIPTOR) for packed in status.details)
