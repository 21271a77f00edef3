"""RPCs that end before a task has them are counted, each once, under their name; the tasks count the others."""

from typing import Any

import grpc.aio
import pytest

from attendant.v1 import common_pb2, completion_pb2, models_pb2
from attendant_server.errors import ServingError
from tests.server.grpc_api.conftest import MAX_BODY_BYTES
from tests.server.grpc_api.fakes import FakeGateway


def _complete(text: str, **more: Any) -> completion_pb2.CompleteRequest:
    return completion_pb2.CompleteRequest(model="tiny", prompts=[common_pb2.Prompt(text=text)], **more)


async def _fails(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_what_the_edge_refuses_is_counted(channel: grpc.aio.Channel, gateway: FakeGateway, stub: Any) -> None:
    raw: Any = channel
    await _fails(raw.unary_unary("/attendant.v1.InferenceService/Complete")(b"\xff\xff\xff"))
    await _fails(stub.Complete(_complete("x" * (MAX_BODY_BYTES + 1))))
    await _fails(stub.Complete(_complete("a", sampling=common_pb2.SamplingParams(temperature=-1))))
    await _fails(stub.Complete(_complete("a"), metadata=(("x-request-timeout-s", "soon"),)))
    await _fails(stub.GetModel(models_pb2.GetModelRequest(model="nobody")))
    gateway.key = "sesame"
    await _fails(stub.ListModels(models_pb2.ListModelsRequest()))
    with pytest.raises(grpc.aio.AioRpcError):
        _ = [piece async for piece in stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=_complete("a")))]
    assert gateway.refusals == [
        ("Complete", "invalid_value"),
        ("Complete", "request_too_large"),
        ("Complete", "invalid_value"),
        ("Complete", "invalid_value"),
        ("GetModel", "model_not_found"),
        ("ListModels", "invalid_api_key"),
        ("StreamComplete", "invalid_api_key"),
    ]
    assert not gateway.calls


@pytest.mark.parametrize("error", [ServingError("queue_full", "full"), RuntimeError("ours")])
async def test_what_a_task_has_seen_is_the_tasks_to_count(gateway: FakeGateway, stub: Any, error: Exception) -> None:
    gateway.error = error
    await _fails(stub.Complete(_complete("a")))
    with pytest.raises(grpc.aio.AioRpcError):
        _ = [piece async for piece in stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=_complete("a")))]
    assert len(gateway.calls) == 2
    assert gateway.refusals == []
