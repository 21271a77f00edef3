"""A connection that gRPC's core never leaves although the other side has said GOAWAY: the client opens another channel."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from attendant_client import AsyncClient, Client, RetryPolicy
from attendant_client.channel import RenewableChannel
from attendant_client.connection import make_connection
from tests.clients.conftest import FAST, RunningServer


def _frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


_ACK = 1
# RFC 9113: settings, that ours were read, and a graceful GOAWAY (no error, all streams may end), in one segment.
_STALE = _frame(4) + _frame(7, payload=struct.pack(">II", 2**31 - 1, 0)) + _frame(4, _ACK)


class StaleProxy:
    """Passes connections on to a server, but for the first ``num_stale``, whose end it announces as it accepts them."""

    def __init__(self, target: str, num_stale: int) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._num_stale = num_stale
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_connections = 0
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        # Shut down first: to close a socket does not wake who waits for it.
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _run(self, function: Callable[..., None], *args: socket.socket) -> None:
        self._threads.append(threading.Thread(target=function, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            self.num_connections += 1
            if self.num_connections <= self._num_stale:
                self._run(self._be_stale, near)
                continue
            far = socket.create_connection(self._target)
            self._sockets.append(far)
            self._run(_pass_on, near, far)
            self._run(_pass_on, far, near)

    def _be_stale(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            near.recv(1)
            near.sendall(_STALE)
            while near.recv(65536):
                pass


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _call(channel: Any) -> None:
    channel.unary_unary("/a.B/C")(b"", timeout=5)


@pytest.fixture
def proxy(running: RunningServer) -> Iterator[StaleProxy]:
    proxy = StaleProxy(running.url, 1)
    yield proxy
    proxy.close()


def test_grpc_itself_stays_on_a_connection_that_is_over(proxy: StaleProxy) -> None:
    """If this fails, gRPC has been mended and ``attendant_client.channel`` may go."""
    with grpc.insecure_channel(proxy.address, options=make_connection(proxy.address).options) as channel:
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match="GOAWAY"):
                _call(channel)
    assert proxy.num_connections == 1


def test_a_client_leaves_it(proxy: StaleProxy) -> None:
    with Client(proxy.address, retry=FAST) as client:
        assert client.complete("tiny", "a").completions
        assert "".join(piece.text for piece in client.stream_complete("tiny", "a"))
    assert proxy.num_connections == 2


async def test_an_async_client_leaves_it(proxy: StaleProxy) -> None:
    async with AsyncClient(proxy.address, retry=FAST) as client:
        answers = await asyncio.gather(*(client.complete("tiny", "a") for _ in range(8)))
        assert all(answer.completions for answer in answers)
    assert proxy.num_connections == 2


async def test_whoever_waits_for_a_server_leaves_it_too(proxy: StaleProxy) -> None:
    with Client(proxy.address) as client:
        client.wait_ready("tiny", timeout_s=20)
    assert proxy.num_connections == 2


async def test_what_runs_on_an_old_channel_goes_on_there(running: RunningServer) -> None:
    running.gateway.num_pieces = 50
    async with AsyncClient(running.url, retry=RetryPolicy(max_attempts=1)) as client:
        stream = client.stream_complete("tiny", "a")
        await anext(stream)
        for _ in range(8):
            client._channel.renew()
            assert (await client.complete("tiny", "a")).completions
        assert len([piece async for piece in stream]) == 49


def test_blocking_channels_of_long_ago_are_closed(running: RunningServer) -> None:
    channel = RenewableChannel(make_connection(running.url))
    first = channel._channel
    for _ in range(5):
        channel.renew()
    with pytest.raises(ValueError, match="closed"):
        _call(first)
    channel.close()
