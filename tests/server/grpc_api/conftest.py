"""A real grpc.aio server on a free port in front of the fake gateway."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from attendant.v1 import inference_service_pb2_grpc
from attendant_server.config import Settings
from attendant_server.grpc_api.services import build_server
from tests.server.grpc_api.fakes import FakeGateway

MAX_BODY_BYTES = 20_000


@pytest.fixture
async def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
async def channel(gateway: FakeGateway) -> AsyncIterator[grpc.aio.Channel]:
    server = build_server(gateway, Settings(max_body_bytes=MAX_BODY_BYTES))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "inference_service_pb2_grpc.InferenceServiceAsyncStub":
    return inference_service_pb2_grpc.InferenceServiceStub(channel)
