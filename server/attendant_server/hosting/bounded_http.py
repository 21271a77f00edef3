"""uvicorn's HTTP/1.1 protocol with an end to everything a peer can drag out: headers, unread bodies, unread answers.

uvicorn waits for ever for a request that never becomes whole, and keeps headers of any size. What a body may be is the
application's to say (``http_api.body_limit``); here a connection ends that goes on sending after its answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024
"""Of one request's head, beside what comes in the same read."""
MAX_HEADER_S = 10.0
"""From a connection's start, or a request's first byte, to the end of its head."""
LINGER_S = 5.0
"""For the rest of a body after its answer, so that a caller who is still sending can read why it was refused."""
MAX_STALL_S = 60.0
"""For a reader to take anything at all of an answer that fills the buffers."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. Every timer ends the connection; none runs while the application works."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_body = False
        self._num_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_timer = self.loop.call_later(MAX_HEADER_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the timers go."""
        for timer in (self._head_timer, self._linger_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head is too long by now."""
        super().data_received(data)
        if not self._in_head:
            self._num_head_bytes = 0
            return
        self._num_head_bytes += len(data)
        if self._num_head_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start the clock of a request on a connection that was kept."""
        super().on_message_begin()
        self._in_head = True
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(MAX_HEADER_S, self._end)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; trailers, which come after a body, are nothing that anybody here reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock and start the application."""
        self._in_head, self._in_body = False, True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the body is whole."""
        self._in_body = False
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a body that nobody waits for any more a moment to end."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(LINGER_S, self._end)

    def pause_writing(self) -> None:
        """Start the clock of a reader that takes nothing."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(MAX_STALL_S, self._end)

    def resume_writing(self) -> None:
        """Stop it."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _end(self) -> None:
        # Not close(): that would wait for a reader who does not read.
        self.transport.abort()
