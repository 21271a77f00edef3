"""What happens to every HTTP request before a route sees it, in pure ASGI so that streams pass untouched.

``RequestGuard`` gives the id, the last resort for errors and the access line; ``KeyCheck`` asks for the API key on every path
but the probes'; ``BodyLimit`` refuses bodies that are too large before they are read or as soon as they prove to be.
"""

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api.call import REQUEST_ID_HEADER, REQUEST_ID_KEY, TENANT_KEY, find_header, take_request_id
from attendant_server.http_api.refusals import RefusalCounter
from attendant_server.http_api.responses import error_response
from attendant_server.logging import bind_request_id, log_event
from attendant_server.status import view_error

# An orchestrator's probes have no key; all other paths are closed unless the key is right, those yet to be written too.
OPEN_PATHS = frozenset({"/health", "/ready"})
# Asked every few seconds by machines; their lines would drown the others.
QUIET_PATHS = OPEN_PATHS | {"/metrics"}

_log = logging.getLogger(__name__)


class RequestGuard:
    """Give every request an id, an answer whatever happens, and a line in the log (never its content); count refusals."""

    def __init__(self, app: ASGIApp, *, refusals: RefusalCounter) -> None:
        self._app = app
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server has no websockets"})
            return
        request_id = take_request_id(find_header(scope["headers"], REQUEST_ID_HEADER))
        scope[REQUEST_ID_KEY] = request_id
        status = 0
        started_s = time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(REQUEST_ID_HEADER, request_id.encode("ascii")), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        with bind_request_id(request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                code = view_error(error).code
                # A probe that hears "not ready" has its answer.
                if not (scope["path"] in OPEN_PATHS and code == "not_ready"):
                    self._refusals.count(scope, code)
                if code == "server_error":
                    log_event(_log, logging.ERROR, "request failed", exc_info=error, path=scope["path"])
                if status:
                    # Too late for a status: a broken connection is the only honest end.
                    raise
                await error_response(error, request_id)(scope, receive, send_with_id)
            finally:
                log_event(
                    _log,
                    logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO,
                    "http request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_s=round(time.monotonic() - started_s, 6),
                )


class KeyCheck:
    """Let nobody in without a key the gateway knows; the tenant goes into the scope."""

    def __init__(self, app: ASGIApp, *, gateway: Callable[[], GatewayTasks]) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request. Raises ``ServingError`` invalid_api_key."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            value = find_header(scope["headers"], b"authorization")
            scope[TENANT_KEY] = self._gateway().authenticate(None if value is None else value.decode("latin-1"))
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuse a body of more than ``max_body_bytes``: by its announced length, or while it is read."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request. Raises ``ServingError`` request_too_large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = find_header(scope["headers"], b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:20]) > self._max_body_bytes:
            raise self._too_large(f"{int(announced[:20])} bytes")
        num_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_body_bytes:
                    raise self._too_large(f"more than {self._max_body_bytes} bytes")
            return message

        await self._app(scope, receive_within_limit, send)

    def _too_large(self, size: str) -> ServingError:
        return ServingError(
            "request_too_large", f"the body has {size}; this server takes at most {self._max_body_bytes}; send fewer or shorter inputs"
        )
