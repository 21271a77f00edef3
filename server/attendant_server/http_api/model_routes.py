"""``POST /v1/models/load`` and ``/v1/models/unload``, for administrators."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api import answers, schemas
from attendant_server.http_api.bodies import LoadModelBody, UnloadModelBody
from attendant_server.http_api.call import call_context, find_header
from attendant_server.http_api.disconnect import run_while_connected
from attendant_server.http_api.json_body import read_body
from attendant_server.http_api.openapi import COMMON_ERRORS, declares_body, error_responses
from attendant_server.http_api.responses import JsonResponse

_ERRORS = (
    "invalid_value",
    "unsupported_parameter",
    "permission_denied",
    "not_found",
    "model_not_found",
    "request_too_large",
    "not_ready",
    "deadline_exceeded",
    *COMMON_ERRORS,
)


def model_routes(gateway: Callable[[], GatewayTasks]) -> APIRouter:
    """Return the routes that change which models are served."""
    router = APIRouter(tags=["models"])

    @router.post(
        "/v1/models/load",
        operation_id="loadModel",
        summary="Load a model of the server's model directory; answers when it is ready",
        response_class=Response,
        responses={200: {"description": "The model", "model": schemas.ModelAnswer}, **error_responses(_ERRORS)},
        openapi_extra=declares_body(LoadModelBody),
    )
    async def load_model(request: Request) -> Response:
        _require_admin(gateway(), request)
        body = await read_body(request, LoadModelBody)
        work = gateway().load_model(body, call_context(request, "/v1/models/load"))
        return JsonResponse(answers.model(await run_while_connected(request.receive, work)))

    @router.post(
        "/v1/models/unload",
        operation_id="unloadModel",
        summary="Take a model away; answers when the requests that it had have ended",
        response_class=Response,
        responses={200: {"description": "What the model was", "model": schemas.ModelAnswer}, **error_responses(_ERRORS)},
        openapi_extra=declares_body(UnloadModelBody),
    )
    async def unload_model(request: Request) -> Response:
        _require_admin(gateway(), request)
        body = await read_body(request, UnloadModelBody)
        work = gateway().unload_model(body, call_context(request, "/v1/models/unload"))
        return JsonResponse(answers.model(await run_while_connected(request.receive, work)))

    return router


def _require_admin(gateway: GatewayTasks, request: Request) -> None:
    header = find_header(request.scope["headers"], b"authorization")
    gateway.require_admin(None if header is None else header.decode("latin-1"))
