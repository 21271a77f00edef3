"""ASGI middleware for behind Ray Serve, which adds an ``x-request-id`` to every answer by itself.

Serve takes the caller's id, or makes one and puts it among the request's headers, where our application finds it: both
mean the same id, and an answer that had it twice would have neither for a client that joins repeated headers.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OneRequestId:
    """Takes our own header off the answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but that header."""

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)
