"""The HTTP application: all routes and the middleware around them, over any gateway.

It is made without a running event loop and holds no connection, so it serves under uvicorn and as a Serve ingress alike;
the gateway may be given as a function that finds it later.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attendant_server.config import Settings
from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api.body_limit import BodyLimit
from attendant_server.http_api.call import request_id_of
from attendant_server.http_api.generation_routes import generation_routes
from attendant_server.http_api.middleware import HeadAsGet, KeyCheck, RequestGuard
from attendant_server.http_api.model_routes import model_routes
from attendant_server.http_api.openapi import build_document
from attendant_server.http_api.pages import page_routes
from attendant_server.http_api.refusals import RefusalCounter
from attendant_server.http_api.responses import error_response
from attendant_server.http_api.service_routes import service_routes
from attendant_server.http_api.task_routes import task_routes
from attendant_server.http_api.tokenizer_routes import tokenizer_routes


def create_app(gateway: GatewayTasks | Callable[[], GatewayTasks], settings: Settings) -> FastAPI:
    """Return the application in front of ``gateway``, or of what it returns when called (``ServingError`` while there is none)."""
    get_gateway: Callable[[], GatewayTasks] = gateway if callable(gateway) else lambda: gateway
    app = _Application(docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    app.asks_keys = settings.api_key_file is not None
    routers = (
        generation_routes(get_gateway),
        task_routes(get_gateway),
        tokenizer_routes(get_gateway),
        model_routes(get_gateway),
        service_routes(get_gateway),
        page_routes(),
    )
    for router in routers:
        app.include_router(router)
    own_routes = (route for router in (app, *routers) for route in router.routes)
    refusals = RefusalCounter(get_gateway, [route.path for route in own_routes if isinstance(route, Route)])

    async def refuse(request: Request, error: Exception) -> Response:
        refused, headers = _as_serving_error(request, error)
        refusals.count(request.scope, refused.code)
        response = error_response(refused, request_id_of(request.scope))
        response.headers.update(headers)
        return response

    app.add_exception_handler(HTTPException, refuse)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(KeyCheck, gateway=get_gateway)
    app.add_middleware(RequestGuard, refusals=refusals)
    return app


class _Application(FastAPI):
    """FastAPI with a document of our own making, built at the first request for it."""

    asks_keys = False

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = build_document(self, asks_keys=self.asks_keys)
        return self.openapi_schema


def _as_serving_error(request: Request, error: Exception) -> tuple[ServingError, dict[str, str]]:
    """Return what the router itself refuses (unknown routes and wrong methods) in our terms, and the headers it needs."""
    if not isinstance(error, HTTPException):
        raise error
    path = ascii(request.scope["path"][:80])
    if error.status_code == 405:
        allowed = (error.headers or {}).get("allow", (error.headers or {}).get("Allow", "another method"))
        allowed = allowed.replace("GET", "GET, HEAD")
        return ServingError("method_not_allowed", f"{path} does not take {request.method[:16]}; use {allowed}"), {"allow": allowed}
    if error.status_code == 404:
        return ServingError("not_found", f"there is no {path} here; /docs lists what there is"), {}
    return ServingError("invalid_value", "the request is not valid HTTP for this route"), {}
