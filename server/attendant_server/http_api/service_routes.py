"""What a server says of itself: its models, its health, its metrics."""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api import answers, schemas
from attendant_server.http_api.openapi import COMMON_ERRORS, error_responses
from attendant_server.http_api.responses import JsonResponse

RETRY_WHEN_NOT_READY_S = 1.0


def service_routes(gateway: Callable[[], GatewayTasks]) -> APIRouter:
    """Return the routes about the server itself."""
    router = APIRouter(tags=["server"])

    @router.get(
        "/v1/models",
        operation_id="listModels",
        summary="List the served models",
        response_class=Response,
        responses={200: {"description": "The models", "model": schemas.ModelListAnswer}, **error_responses(COMMON_ERRORS)},
    )
    async def list_models() -> Response:
        return JsonResponse({"object": "list", "data": [answers.model(card) for card in gateway().list_models()]})

    @router.get(
        "/v1/models/{model:path}",
        operation_id="getModel",
        summary="Describe one served model",
        response_class=Response,
        responses={200: {"description": "The model", "model": schemas.ModelAnswer}, **error_responses(("model_not_found", *COMMON_ERRORS))},
    )
    async def get_model(model: str) -> Response:
        return JsonResponse(answers.model(gateway().get_model(model)))

    @router.get(
        "/health",
        operation_id="health",
        summary="Liveness: the process answers",
        response_class=Response,
        responses={200: {"description": "Alive", "model": schemas.StateAnswer}},
    )
    async def health() -> Response:
        return JsonResponse({"status": "ok"})

    @router.get(
        "/ready",
        operation_id="ready",
        summary="Readiness: every model has a replica that answers",
        response_class=Response,
        responses={200: {"description": "Ready", "model": schemas.StateAnswer}, **error_responses(("not_ready",))},
    )
    async def ready() -> Response:
        if not gateway().is_ready():
            raise ServingError(
                "not_ready", "a model is still loading, or the server is stopping; try again soon", retry_after_s=RETRY_WHEN_NOT_READY_S
            )
        return JsonResponse({"status": "ready"})

    @router.get(
        "/metrics",
        operation_id="metrics",
        summary="Metrics of the whole application, as Prometheus text",
        response_class=Response,
        responses={
            200: {"description": "The metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **error_responses(COMMON_ERRORS),
        },
    )
    async def metrics() -> Response:
        return Response(gateway().render_metrics(), headers={"content-type": CONTENT_TYPE_LATEST})

    return router
