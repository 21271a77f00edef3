"""Channels that can be exchanged for fresh ones under the methods that were made of them.

gRPC's core never leaves a connection on which GOAWAY came in the same breath as the first SETTINGS: every call on the
channel fails at once from then on, for as long as the process lives (seen in 1.85 with a proxy that was reloading). So a
client whose calls keep failing opens another channel. What still runs on an old one goes on there.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from attendant_client.connection import Connection

ChannelT = TypeVar("ChannelT", grpc.Channel, grpc.aio.Channel)

_MAX_OLD = 4
"""Old channels that stay open for the calls that run on them."""


class _Renewable(ABC, Generic[ChannelT]):
    """The part of a gRPC channel that stubs are made of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        self._channel: ChannelT = self._open(connection)
        self._old: deque[ChannelT] = deque()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Make a method that takes a message and returns one, as ``grpc.Channel`` does."""
        return self._method(lambda channel: channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Make a method that takes a message and returns a stream, as ``grpc.Channel`` does."""
        return self._method(lambda channel: channel.unary_stream(*args, **kwargs))

    def renew(self) -> None:
        """Open a fresh channel; calls from now on are made there."""
        with self._lock:
            self._old.append(self._channel)
            self._channel = self._open(self._connection)
            outdated = self._old.popleft() if len(self._old) > _MAX_OLD else None
        if outdated is not None:
            self._discard(outdated)

    def _method(self, make: Callable[[ChannelT], Any]) -> Callable[..., Any]:
        made: tuple[ChannelT, Any] | None = None

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            current, channel = made, self._channel
            if current is None or current[0] is not channel:
                made = current = (channel, make(channel))
            return current[1](*args, **kwargs)

        return call

    @staticmethod
    @abstractmethod
    def _open(connection: Connection) -> ChannelT:
        """Return a channel, which connects by itself."""

    @staticmethod
    @abstractmethod
    def _discard(channel: ChannelT) -> None:
        """Let go of a channel without waiting for what runs on it."""


class RenewableChannel(_Renewable[grpc.Channel]):
    """A blocking one; safe to share between threads."""

    def close(self) -> None:
        """End what runs and close all that is open."""
        for channel in (self._channel, *self._old):
            channel.close()

    @staticmethod
    def _open(connection: Connection) -> grpc.Channel:
        if connection.credentials is None:
            return grpc.insecure_channel(connection.address, options=connection.options)
        return grpc.secure_channel(connection.address, connection.credentials, options=connection.options)

    @staticmethod
    def _discard(channel: grpc.Channel) -> None:
        channel.close()


class AsyncRenewableChannel(_Renewable[grpc.aio.Channel]):
    """One for the event loop that made it."""

    async def close(self) -> None:
        """End what runs and close all that is open."""
        for channel in (self._channel, *self._old):
            await channel.close()

    @staticmethod
    def _open(connection: Connection) -> grpc.aio.Channel:
        if connection.credentials is None:
            return grpc.aio.insecure_channel(connection.address, options=connection.options)
        return grpc.aio.secure_channel(connection.address, connection.credentials, options=connection.options)

    @staticmethod
    def _discard(channel: grpc.aio.Channel) -> None:
        """Leave it to its last call: to close it would cancel the tasks that await calls."""
