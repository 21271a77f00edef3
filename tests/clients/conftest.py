"""The client against a real server with a scripted gateway, which runs on a loop and thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from attendant_client import Client, RetryPolicy
from attendant_server.config import Settings
from attendant_server.grpc_api.services import build_server
from tests.server.grpc_api.fakes import FakeGateway

FAST = RetryPolicy(initial_backoff_s=0.001)


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, what it asks, and a way to touch both on their own loop."""

    url: str
    gateway: FakeGateway
    loop: asyncio.AbstractEventLoop

    def wait_for(self, event: asyncio.Event) -> None:
        asyncio.run_coroutine_threadsafe(event.wait(), self.loop).result(5)


def start_server(port: int = 0) -> tuple[RunningServer, Callable[[], None]]:
    """Start a server in a thread, at a port of its own or the one given; return it and what stops it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Any, int, FakeGateway]:
        gateway = FakeGateway()
        server = build_server(gateway, Settings(max_body_bytes=20_000))
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server, bound, gateway

    server, bound, gateway = asyncio.run_coroutine_threadsafe(start(), loop).result(10)

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

    return RunningServer(url=f"127.0.0.1:{bound}", gateway=gateway, loop=loop), stop


@pytest.fixture
def running() -> Iterator[RunningServer]:
    server, stop = start_server()
    yield server
    stop()


@pytest.fixture
def gateway(running: RunningServer) -> FakeGateway:
    return running.gateway


@pytest.fixture
def client(running: RunningServer) -> Iterator[Client]:
    with Client(running.url, retry=FAST) as client:
        yield client


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that is taken but answers nobody, so that no other test can get it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
