"""A caller who goes away, or whose time is up, ends the gateway's work at once, wherever it stands."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from attendant.v1 import common_pb2, completion_pb2
from tests.server.grpc_api.fakes import FakeGateway

REQUEST = completion_pb2.CompleteRequest(model="tiny", prompts=[common_pb2.Prompt(text="a")])


async def _ended(gateway: FakeGateway) -> None:
    async with asyncio.timeout(5):
        await gateway.ended.wait()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_cancelling_while_the_task_waits_ends_it(gateway: FakeGateway, stub: Any, is_stream: bool) -> None:
    gateway.is_holding = True
    rpc = stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=REQUEST)) if is_stream else stub.Complete(REQUEST)
    await gateway.started.wait()
    assert not gateway.ended.is_set()
    rpc.cancel()
    await _ended(gateway)


async def test_cancelling_between_the_pieces_of_a_stream_closes_it(gateway: FakeGateway, stub: Any) -> None:
    gateway.num_pieces = 10_000_000
    rpc = stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=REQUEST))
    await rpc.read()
    rpc.cancel()
    await _ended(gateway)


async def test_cancelling_a_stream_that_nobody_reads_closes_it_although_the_write_is_blocked(gateway: FakeGateway, stub: Any) -> None:
    gateway.num_pieces = 10_000_000
    gateway.piece_text = "x" * 50_000
    rpc = stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=REQUEST))
    await gateway.started.wait()
    rpc.cancel()
    await _ended(gateway)


async def test_a_deadline_that_passes_ends_the_task(gateway: FakeGateway, stub: Any) -> None:
    gateway.is_holding = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(REQUEST, timeout=0.1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await _ended(gateway)


async def test_closing_the_channel_ends_the_task(gateway: FakeGateway, channel: grpc.aio.Channel, stub: Any) -> None:
    gateway.is_holding = True
    rpc = stub.Complete(REQUEST)
    await gateway.started.wait()
    await channel.close(None)
    await _ended(gateway)
    with pytest.raises(asyncio.CancelledError):
        await rpc
