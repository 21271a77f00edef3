"""Server-sent events (HTML Living Standard, section 9.2) as OpenAI sends them: ``data:`` lines, ``[DONE]`` at the end.

One task pulls items and writes them into an outbox, the request's own task sends whatever has gathered there in one
piece: a slow reader gets fewer, larger writes, and a full outbox stops the pulling. The status line waits for the first
chunk, so that whatever fails before it still becomes a proper error response.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import StreamItem
from attendant_server.http_api.call import request_id_of
from attendant_server.http_api.disconnect import cancel_and_wait, until_disconnect
from attendant_server.http_api.responses import encode_json, error_body
from attendant_server.logging import log_event
from attendant_server.status import view_error

# A reader that stops reading holds this much at most; some hundreds of chunks, so that nobody else notices it.
MAX_OUTBOX_BYTES = 64 * 1024
MAX_STALL_S = 60.0
"""For the caller to take anything of a full outbox; what the stream holds of the gateway is then given back."""
DONE = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)


def event(data: bytes) -> bytes:
    """Return one event of ``data``, which is JSON and hence one line."""
    return b"data: " + data + b"\n\n"


class Outbox:
    """Bytes between the task that makes them and the one that sends them."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._error: Exception | None = None
        self._is_closed = False
        self._is_untouched = True

    @property
    def is_untouched(self) -> bool:
        """True until something is put in."""
        return self._is_untouched

    async def put(self, chunk: bytes) -> None:
        """Add a chunk; waits while the outbox is full. Raises ``ServingError`` when it stays so for ``MAX_STALL_S``."""
        if not self._has_room.is_set():
            try:
                async with asyncio.timeout(MAX_STALL_S):
                    await self._has_room.wait()
            except TimeoutError:
                raise ServingError("deadline_exceeded", f"the stream was not read for {MAX_STALL_S:g} s") from None
        if not chunk:
            return
        self._is_untouched = False
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)
        if self._num_bytes >= MAX_OUTBOX_BYTES:
            self._has_room.clear()
        self._has_news.set()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._is_closed = True
        self._has_news.set()

    def fail(self, error: Exception, request_id: str) -> None:
        """End with ``error``: raised to the taker if nothing was ever put in, else as the last event but ``[DONE]``."""
        if self._is_untouched:
            self._error = error
        else:
            self._chunks.append(event(encode_json(error_body(view_error(error, request_id=request_id)))) + DONE)
        self.close()

    async def take(self) -> bytes:
        """Return all that is here, waiting for something; b"" at the end. Raises what the outbox was closed with."""
        await self._has_news.wait()
        self._has_news.clear()
        taken = b"".join(self._chunks)
        self._chunks.clear()
        self._num_bytes = 0
        self._has_room.set()
        if self._is_closed:
            self._has_news.set()
            if self._error is not None:
                raise self._error
        return taken


class EventStream(Response):
    """A stream of the gateway's as server-sent events.

    ``admit`` asks the gateway for the stream, ``write`` turns an item into events (b"" for none). When the caller goes,
    the task that holds the stream is cancelled at once, wherever it stands.
    """

    media_type = "text/event-stream"

    def __init__(self, admit: Callable[[], Awaitable[AsyncIterator[StreamItem]]], write: Callable[[StreamItem], bytes]) -> None:
        self.status_code = 200
        self.background = None
        # "no" keeps nginx from holding the events back.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._admit = admit
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream to the caller. Raises what failed before the first chunk."""
        outbox = Outbox()
        pump = asyncio.create_task(self._pump(outbox, request_id_of(scope)))
        watcher = asyncio.create_task(until_disconnect(receive))
        watcher.add_done_callback(lambda _: pump.cancel())
        try:
            chunk = await outbox.take()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await outbox.take()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await cancel_and_wait(watcher, pump)

    async def _pump(self, outbox: Outbox, request_id: str) -> None:
        try:
            await self._pull(outbox)
            await outbox.put(DONE)
            outbox.close()
        except asyncio.CancelledError:
            outbox.fail(ServingError("cancelled", "the caller went away before the answer was ready"), request_id)
            raise
        except Exception as error:
            if not outbox.is_untouched and view_error(error).code == "server_error":
                log_event(_log, logging.ERROR, "stream failed", exc_info=error)
            outbox.fail(error, request_id)

    async def _pull(self, outbox: Outbox) -> None:
        items = await self._admit()
        try:
            async for item in items:
                await outbox.put(self._write(item))
        finally:
            # Closing tells the gateway that nobody listens any more; a plain iterator has nothing to close.
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
