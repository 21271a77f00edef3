"""Nothing but the probes' methods answers without a key, unknown methods and reflection included; slow senders are cut."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from attendant.v1 import common_pb2, completion_pb2, inference_service_pb2
from attendant_server.config import Settings
from attendant_server.grpc_api import services, stalls
from attendant_server.grpc_api.call import GrpcCall
from attendant_server.grpc_api.health import HealthHandlers
from attendant_server.grpc_api.key_check import OPEN_METHODS, KeyGate, MessageTimeLimit
from attendant_server.grpc_api.servicer import InferenceHandlers
from tests.server.grpc_api.fakes import FakeGateway

SERVICES = (
    inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS = sorted(f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods)
UNKNOWN = (
    "/attendant.v1.InferenceService/Nope",
    "/attendant.v1.InferenceService/",
    "/nope.Service/Complete",
    "/attendant.v1.inferenceservice/complete",
    "//attendant.v1.InferenceService/Complete",
    "/grpc.health.v1.Health/Check/",
    "/grpc.health.v1.Health/check",
    "/grpc.health.v1.Health/../Complete",
    "/grpc.health.v1.Health/Check%2f..",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/ray.serve.RayServeAPIService/ListApplications",
    "/",
)
BAD_KEYS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("authorization", ""),),
    (("authorization", "Bearer wrong"),),
    (("authorization", "Bearer"),),
    (("x-api-key", "right"),),
    (("authorization", "Bearer right"), ("authorization", "Bearer wrong")),
)


async def _status(channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    raw: Any = channel
    try:
        await raw.unary_unary(method)(b"", metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("metadata", BAD_KEYS)
async def test_every_method_asks_for_a_key(channel: grpc.aio.Channel, gateway: FakeGateway, metadata: tuple[tuple[str, str], ...]) -> None:
    gateway.key = "right"
    assert set(METHODS) > OPEN_METHODS
    for method in (*METHODS, *UNKNOWN):
        if method not in OPEN_METHODS:
            assert await _status(channel, method, metadata) == grpc.StatusCode.UNAUTHENTICATED, method
    assert not gateway.calls
    assert set(gateway.refusals) >= {("Complete", "invalid_api_key"), ("unknown_method", "invalid_api_key")}
    assert {name for name, _ in gateway.refusals} <= {"unknown_method", *(method.name for method in SERVICES[0].methods)}


async def test_probes_need_no_key(channel: grpc.aio.Channel, gateway: FakeGateway) -> None:
    gateway.key = "right"
    assert await _status(channel, "/grpc.health.v1.Health/Check", ()) == grpc.StatusCode.OK
    raw: Any = channel
    watch = raw.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_with_a_key_everything_is_there_and_the_unknown_is_unimplemented(channel: grpc.aio.Channel, gateway: FakeGateway) -> None:
    gateway.key = "right"
    key = (("authorization", "Bearer right"),)
    assert await _status(channel, "/grpc.health.v1.Health/List", key) == grpc.StatusCode.OK
    assert await _status(channel, "/attendant.v1.InferenceService/ListModels", key) == grpc.StatusCode.OK
    assert await _status(channel, "/attendant.v1.InferenceService/Nope", key) == grpc.StatusCode.UNIMPLEMENTED
    raw: Any = channel
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    answers = raw.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([request]), metadata=key)
    assert b"attendant.v1.InferenceService" in await answers.read()


async def test_a_refusal_comes_before_the_message_is_read(channel: grpc.aio.Channel, gateway: FakeGateway) -> None:
    gateway.key = "right"
    raw: Any = channel

    async def never_sent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    call = raw.stream_unary("/attendant.v1.InferenceService/Complete")(never_sent(), timeout=10)
    assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-request-id"]
    assert b"invalid_api_key" in trailers["grpc-status-details-bin"]


async def test_metadata_over_its_limit_is_refused(channel: grpc.aio.Channel) -> None:
    large = (("x-large", "x" * services.MAX_METADATA_BYTES),)
    assert await _status(channel, "/attendant.v1.InferenceService/ListModels", large) == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Complete", "StreamComplete"])
async def test_a_message_that_does_not_come_ends_the_call(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway, method: str) -> None:
    monkeypatch.setattr(services, "MessageTimeLimit", lambda: MessageTimeLimit(0.05))
    server = services.build_server(gateway, Settings())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def never_sent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        raw: Any = channel
        call = raw.stream_stream(f"/attendant.v1.InferenceService/{method}")(never_sent(), timeout=10)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "not whole after 0.05 s" in await call.details()
        call = raw.stream_stream(f"/attendant.v1.InferenceService/{method}")(iter(()), timeout=10)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    await server.stop(None)
    assert not gateway.calls


async def test_streams_of_one_connection_are_bounded(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway) -> None:
    monkeypatch.setattr(services, "MAX_STREAMS_PER_CONNECTION", 2)
    gateway.is_holding = True
    server = services.build_server(gateway, Settings())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    message = b"\n\x04tiny\x12\x03\n\x01a"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        raw: Any = channel
        held = [raw.unary_unary("/attendant.v1.InferenceService/Complete")(message) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(gateway.calls) < 2:
                await asyncio.sleep(0)
        assert await _third(raw) == grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(gateway.calls) == 2
        for call in held:
            call.cancel()
    await server.stop(None)


async def _third(channel: Any) -> grpc.StatusCode:
    call = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=0.2)
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize(
    ("peer", "is_loopback"),
    [
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:%5B::1%5D:1", True),
        ("ipv6:[::1]:1", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:1", True),
        ("ipv4:10.0.0.1:1", False),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1", False),
        ("ipv6:%5B2001:db8::127.0.0.1%5D:1", False),
        ("ipv6:%5B::1:1%5D:1", False),
        ("unix:/x", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_told_from_everything_else(peer: str | None, is_loopback: bool) -> None:
    assert GrpcCall(_From(peer)).is_from_loopback == is_loopback


class _From:
    """A context of an RPC from ``peer``."""

    def __init__(self, peer: str | None) -> None:
        self._peer = peer
        self.code = grpc.StatusCode.OK

    def peer(self) -> str | None:
        return self._peer

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None: ...


_COMPLETE = completion_pb2.CompleteRequest(model="tiny", prompts=[common_pb2.Prompt(text="a")])


async def test_a_reader_who_stops_gives_back_what_the_stream_held(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway) -> None:
    monkeypatch.setattr(stalls, "MAX_STALL_S", 0.01)
    gateway.num_pieces = 5
    handlers = InferenceHandlers(gateway, max_body_bytes=1000)
    request = completion_pb2.StreamCompleteRequest(request=_COMPLETE)
    context = _From("ipv4:127.0.0.1:1")
    pieces = handlers.StreamComplete(request, context)
    await anext(pieces)
    assert not gateway.ended.is_set()
    async with asyncio.timeout(10):
        await gateway.ended.wait()
    assert [piece async for piece in pieces] == []
    assert context.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_reader_who_reads_is_not_limited(gateway: FakeGateway) -> None:
    gateway.num_pieces = 5
    handlers = InferenceHandlers(gateway, max_body_bytes=1000)
    request = completion_pb2.StreamCompleteRequest(request=_COMPLETE)
    context = _From("ipv4:127.0.0.1:1")
    assert len([piece async for piece in handlers.StreamComplete(request, context)]) == 6
    assert context.code == grpc.StatusCode.OK


async def test_a_server_without_interceptors_is_guarded_by_the_gate(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway) -> None:
    gate = KeyGate()
    monkeypatch.setattr(services, "process_gate", lambda: gate)
    gateway.key = "right"
    # A server that takes no interceptors and has a way of its own to add handlers, as Ray Serve's.
    plain: Any = type(grpc.aio.server())

    def add_routing_ones(self: Any, handlers: Any) -> None:
        assert not isinstance(handlers[0], KeyGate), "Serve would route to replicas instead"
        plain.add_generic_rpc_handlers(self, handlers)

    serves: Any = type("ServesServer", (plain,), {"add_generic_rpc_handlers": add_routing_ones})
    server = serves(None, (), (), (), None, None)
    services.add_inference_servicer(InferenceHandlers(gateway, max_body_bytes=1000), server)
    services.add_health_servicer(HealthHandlers(gateway), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        # Before a gateway is there, the handlers' own check stands alone.
        assert await _status(channel, "/attendant.v1.InferenceService/ListModels", ()) == grpc.StatusCode.UNAUTHENTICATED
        assert await _status(channel, "/attendant.v1.InferenceService/Nope", ()) == grpc.StatusCode.UNIMPLEMENTED
        gate.guard(gateway)
        for method in (*METHODS, *UNKNOWN):
            expected = grpc.StatusCode.OK if method == "/grpc.health.v1.Health/Check" else grpc.StatusCode.UNAUTHENTICATED
            if method != "/grpc.health.v1.Health/Watch":
                assert await _status(channel, method, ()) == expected, method
        assert (
            await _status(channel, "/attendant.v1.InferenceService/ListModels", (("authorization", "Bearer right"),)) == grpc.StatusCode.OK
        )
    await server.stop(None)
