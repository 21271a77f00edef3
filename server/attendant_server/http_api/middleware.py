"""What happens to every HTTP request before a route sees it, in pure ASGI so that streams pass untouched.

``RequestGuard`` gives the id, the last resort for errors and the access line; ``KeyCheck`` asks for the API key on every path
but the probes'; ``HeadAsGet`` lets the routes forget that there is HEAD. What bodies may be is ``body_limit``'s.
"""

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api.call import OPEN_PATHS, REQUEST_ID_HEADER, REQUEST_ID_KEY, TENANT_KEY, find_header, take_request_id
from attendant_server.http_api.refusals import RefusalCounter
from attendant_server.http_api.responses import error_response
from attendant_server.logging import bind_request_id, log_event
from attendant_server.status import view_error

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


class HeadAsGet:
    """Answer HEAD as GET would be, without the body (RFC 9110, section 9.3.2), on every path that takes GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # A copy: the HTTP server must go on knowing that it was HEAD.
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_without_body)
        finally:
            scope.update({key: value for key, value in as_get.items() if key not in scope})
