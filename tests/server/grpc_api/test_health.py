"""Health of the whole and of each model, and reflection that tools can use without our .proto files."""

import asyncio
import dataclasses
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attendant_server.grpc_api.health import HealthHandlers
from tests.server.grpc_api.fakes import CARD, FakeGateway

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _NoContext:
    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None: ...


async def test_check_tells_of_the_whole_and_of_each_model(gateway: FakeGateway, channel: grpc.aio.Channel) -> None:
    gateway.key = "probes-have-no-key"
    stub: Any = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest(service="tiny"))).status == SERVING
    key = (("authorization", "Bearer probes-have-no-key"),)
    assert dict((await stub.List(health_pb2.HealthListRequest(), metadata=key)).statuses).keys() == {"", "tiny"}
    gateway.ready = False
    gateway.cards = [dataclasses.replace(CARD, is_ready=False)]
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest(service="tiny"))).status == NOT_SERVING


async def test_check_of_an_unknown_name_is_not_found_and_of_bad_bytes_invalid(channel: grpc.aio.Channel) -> None:
    raw: Any = channel
    stub: Any = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.unary_unary("/grpc.health.v1.Health/Check")(b"\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_watch_sends_the_status_at_once_and_again_when_it_changes(gateway: FakeGateway) -> None:
    handlers = HealthHandlers(gateway, poll_interval_s=0.001)
    watch = handlers.Watch(health_pb2.HealthCheckRequest(), _NoContext())
    async with asyncio.timeout(5):
        assert (await anext(watch)).status == SERVING
        gateway.ready = False
        assert (await anext(watch)).status == NOT_SERVING
        gateway.ready = True
        assert (await anext(watch)).status == SERVING
    await watch.aclose()


async def test_watch_of_an_unknown_name_says_so_and_stays(gateway: FakeGateway, channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="later"))
    assert (await watch.read()).status == SERVICE_UNKNOWN
    gateway.cards = [dataclasses.replace(CARD, id="later")]
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_reflection_lists_our_service_and_describes_its_methods(channel: grpc.aio.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="attendant.v1.InferenceService"),
    ]
    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"attendant.v1.InferenceService", "grpc.health.v1.Health"} <= names
    assert any(b"StreamComplete" in data for data in described.file_descriptor_response.file_descriptor_proto)


async def test_list_names_models_so_it_asks_for_a_key(gateway: FakeGateway) -> None:
    gateway.key = "right"
    assert not (await HealthHandlers(gateway).List(health_pb2.HealthListRequest(), _NoContext())).statuses


async def test_watches_are_bounded_and_given_back(gateway: FakeGateway) -> None:
    handlers = HealthHandlers(gateway, poll_interval_s=0.001, max_watches=1)
    first = handlers.Watch(health_pb2.HealthCheckRequest(), _NoContext())
    assert (await anext(first)).status == SERVING
    assert await anext(handlers.Watch(health_pb2.HealthCheckRequest(), _NoContext()), None) is None
    await first.aclose()
    third = handlers.Watch(health_pb2.HealthCheckRequest(), _NoContext())
    assert (await anext(third)).status == SERVING
    await third.aclose()
