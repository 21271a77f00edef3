"""How much a caller may send, and how long they may take over it, in pure ASGI.

A body is refused by its announced length before it is read, or as soon as it proves to be too large or too slow; what the
caller goes on sending after that is the HTTP server's to cut.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attendant_server.errors import ServingError
from attendant_server.http_api.call import find_header

MAX_BODY_S = 30.0
"""From the headers to the body's last byte; the largest body then needs 2.2 Mbit/s."""


class BodyLimit:
    """Refuse a body of more than ``max_body_bytes``, and one that is not whole after ``max_body_s``."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_body_s: float = MAX_BODY_S) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_body_s = max_body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request. Raises ``ServingError`` request_too_large, or invalid_value for a body that is too slow."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = find_header(scope["headers"], b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:20]) > self._max_body_bytes:
            raise self._too_large(f"{int(announced[:20])} bytes")
        deadline_s = asyncio.get_running_loop().time() + self._max_body_s
        num_bytes = 0
        is_whole = False

        async def receive_within_limits() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                # What is awaited now is the caller's leaving, for as long as the answer takes.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(num_bytes) from None
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if num_bytes > self._max_body_bytes:
                    raise self._too_large(f"more than {self._max_body_bytes} bytes")
            return message

        await self._app(scope, receive_within_limits, send)

    def _too_large(self, size: str) -> ServingError:
        return ServingError(
            "request_too_large", f"the body has {size}; this server takes at most {self._max_body_bytes}; send fewer or shorter inputs"
        )

    def _too_slow(self, num_bytes: int) -> ServingError:
        return ServingError(
            "invalid_value",
            f"the body was not whole after {self._max_body_s:g} s ({num_bytes} bytes had come); send it at once, or fewer inputs a request",
        )
