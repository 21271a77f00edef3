"""Replicas for the link's tests, and a way to wait for what they come to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from attendant_server.link.base import ReplicaState
from attendant_server.link.client import LinkClient
from attendant_server.link.server import LinkServer
from tests.server.fakes import FakeLink

TOKEN = "a token that only this application knows"


class ServedFake(FakeLink):
    """A fake replica that can also say how its thread is."""

    state: ReplicaState = "ready"
    detail = ""


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Let the loop run until ``condition`` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def served(replica: ServedFake, *, heartbeat_s: float = 0.02) -> AsyncIterator[tuple[LinkServer, str]]:
    """Serve a replica; give its server and address."""
    server = LinkServer(replica, token=TOKEN, heartbeat_s=heartbeat_s)
    port = await server.start("127.0.0.1")
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop()


@asynccontextmanager
async def linked(address: str, *, token: str = TOKEN, window: int = 4, heartbeat_limit_s: float = 5.0) -> AsyncIterator[LinkClient]:
    """Link to a replica; ready or not."""
    link = LinkClient(
        address,
        token=token,
        replica_id="r0",
        gateway_id="g0",
        window=window,
        heartbeat_limit_s=heartbeat_limit_s,
    )
    try:
        yield link
    finally:
        await link.close()
