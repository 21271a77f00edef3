"""``POST /v1/embeddings``, ``/v1/classify`` and ``/v1/few-shot``."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api import answers, schemas
from attendant_server.http_api.bodies import ClassifyBody, EmbedBody, FewShotBody
from attendant_server.http_api.call import call_context
from attendant_server.http_api.disconnect import run_while_connected
from attendant_server.http_api.json_body import read_body
from attendant_server.http_api.openapi import TASK_ERRORS, declares_body, error_responses
from attendant_server.http_api.responses import JsonResponse


def task_routes(gateway: Callable[[], GatewayTasks]) -> APIRouter:
    """Return the routes of the tasks that answer in one piece."""
    router = APIRouter(tags=["tasks"])

    @router.post(
        "/v1/embeddings",
        operation_id="createEmbedding",
        summary="Turn each input into a vector",
        response_class=Response,
        responses={200: {"description": "One vector an input", "model": schemas.EmbedAnswer}, **error_responses(TASK_ERRORS)},
        openapi_extra=declares_body(EmbedBody),
    )
    async def embed(request: Request) -> Response:
        body = await read_body(request, EmbedBody)
        work = gateway().embed(body, call_context(request, "/v1/embeddings"))
        return JsonResponse(answers.embeddings(await run_while_connected(request.receive, work), body.encoding_format))

    @router.post(
        "/v1/classify",
        operation_id="classify",
        summary="Label each text or pair of texts",
        response_class=Response,
        responses={200: {"description": "One judgement an input", "model": schemas.ClassifyAnswer}, **error_responses(TASK_ERRORS)},
        openapi_extra=declares_body(ClassifyBody),
    )
    async def classify(request: Request) -> Response:
        body = await read_body(request, ClassifyBody)
        work = gateway().classify(body, call_context(request, "/v1/classify"))
        return JsonResponse(answers.classification(await run_while_connected(request.receive, work)))

    @router.post(
        "/v1/few-shot",
        operation_id="fewShot",
        summary="Do a task from examples: score labels, or generate",
        response_class=Response,
        responses={200: {"description": "One answer a query", "model": schemas.FewShotAnswers}, **error_responses(TASK_ERRORS)},
        openapi_extra=declares_body(FewShotBody),
    )
    async def few_shot(request: Request) -> Response:
        body = await read_body(request, FewShotBody)
        work = gateway().few_shot(body, call_context(request, "/v1/few-shot"))
        return JsonResponse(answers.few_shot(await run_while_connected(request.receive, work)))

    return router
