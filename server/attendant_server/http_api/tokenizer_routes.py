"""``POST /tokenize``, ``/detokenize`` and ``GET /tokenizer_info`` in vLLM's shapes, which lm-eval uses.

Those clients know of one model and may not name it; then the first served one is meant.
"""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.gateway.requests import DetokenizeRequest, TokenizeRequest
from attendant_server.http_api import answers, schemas
from attendant_server.http_api.bodies import DetokenizeBody, TokenizeBody
from attendant_server.http_api.call import call_context
from attendant_server.http_api.disconnect import run_while_connected
from attendant_server.http_api.json_body import read_body
from attendant_server.http_api.openapi import TASK_ERRORS, declares_body, error_responses
from attendant_server.http_api.responses import JsonResponse


def tokenizer_routes(gateway: Callable[[], GatewayTasks]) -> APIRouter:
    """Return the routes to a model's tokenizer."""
    router = APIRouter(tags=["tokenizer"])

    @router.post(
        "/tokenize",
        operation_id="tokenize",
        summary="Show how a model reads a text or a conversation",
        response_class=Response,
        responses={200: {"description": "The tokens", "model": schemas.TokenizeAnswer}, **error_responses(TASK_ERRORS)},
        openapi_extra=declares_body(TokenizeBody),
    )
    async def tokenize(request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        # A chat template writes the special tokens itself.
        adds_special = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
        canonical = TokenizeRequest(
            model=body.model or first_model(gateway()),
            text=body.prompt or "",
            messages=None if body.messages is None else [message.to_message() for message in body.messages],
            add_special_tokens=adds_special,
            add_generation_prompt=body.add_generation_prompt,
        )
        result = await run_while_connected(request.receive, gateway().tokenize(canonical, call_context(request, "/tokenize")))
        return JsonResponse(answers.tokens(result, with_strings=body.return_token_strs))

    @router.post(
        "/detokenize",
        operation_id="detokenize",
        summary="Turn token ids back into text",
        response_class=Response,
        responses={200: {"description": "The text", "model": schemas.DetokenizeAnswer}, **error_responses(TASK_ERRORS)},
        openapi_extra=declares_body(DetokenizeBody),
    )
    async def detokenize(request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        canonical = DetokenizeRequest(model=body.model or first_model(gateway()), token_ids=body.tokens)
        try:
            text = await run_while_connected(request.receive, gateway().detokenize(canonical, call_context(request, "/detokenize")))
        except ServingError as error:
            raise _in_vllms_words(error) from None
        return JsonResponse({"prompt": text})

    @router.get(
        "/tokenizer_info",
        operation_id="tokenizerInfo",
        summary="Describe a model's tokenizer",
        response_class=Response,
        responses={
            200: {"description": "Its special tokens, limits and template", "model": schemas.TokenizerInfo},
            **error_responses(TASK_ERRORS),
        },
    )
    async def tokenizer_info(request: Request, model: str | None = None) -> Response:
        name = model or first_model(gateway())
        info = await gateway().tokenizer_info(name, call_context(request, "/tokenizer_info"))
        return JsonResponse({"model": name, **info})

    return router


def _in_vllms_words(error: ServingError) -> ServingError:
    """Call the canonical field ``token_ids`` by the name that the caller used."""
    if error.param != "token_ids":
        return error
    message = error.message.replace("'token_ids'", "'tokens'")
    return ServingError(error.code, message, param="tokens", retry_after_s=error.retry_after_s)


def first_model(gateway: GatewayTasks) -> str:
    """Return the name of the first served model. Raises ``ServingError`` model_not_found where there is none."""
    models = gateway.list_models()
    if not models:
        raise ServingError("model_not_found", "no model is served", param="model")
    return models[0].id
