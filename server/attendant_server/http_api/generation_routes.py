"""``POST /v1/completions`` and ``/v1/chat/completions``, whole or streamed."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api import answers, schemas
from attendant_server.http_api.bodies import ChatBody, CompletionBody
from attendant_server.http_api.call import call_context
from attendant_server.http_api.chunks import ChatChunkWriter, CompletionChunkWriter
from attendant_server.http_api.disconnect import run_while_connected
from attendant_server.http_api.event_stream import EventStream
from attendant_server.http_api.json_body import read_body
from attendant_server.http_api.openapi import TASK_ERRORS, declares_body, error_responses
from attendant_server.http_api.responses import JsonResponse

_COMPLETION_EVENTS = """data: {"id":"1f","object":"text_completion","created":1795000000,"model":"attendant-gpt","choices":[{"index":0,\
"text":" there","token_ids":[403],"logprobs":null,"finish_reason":null,"stop_reason":null}]}

data: [DONE]

"""
_CHAT_EVENTS = """data: {"id":"1f","object":"chat.completion.chunk","created":1795000000,"model":"my-chat-model","choices":[{"index":0,\
"delta":{"role":"assistant","content":"Hi"},"token_ids":[403],"logprobs":null,"finish_reason":null,"stop_reason":null}]}

data: [DONE]

"""


def generation_routes(gateway: Callable[[], GatewayTasks]) -> APIRouter:
    """Return the routes that generate text."""
    router = APIRouter(tags=["generation"])

    @router.post(
        "/v1/completions",
        operation_id="createCompletion",
        summary="Continue one or more prompts",
        response_class=Response,
        responses={
            200: {
                "description": "The completion, or with stream its chunks",
                "model": schemas.CompletionAnswer,
                "content": {"text/event-stream": schemas.event_stream_content(_COMPLETION_EVENTS)},
            },
            **error_responses(TASK_ERRORS),
        },
        openapi_extra=declares_body(CompletionBody),
    )
    async def complete(request: Request) -> Response:
        body = await read_body(request, CompletionBody)
        call = call_context(request, "/v1/completions")
        if body.stream:
            return EventStream(lambda: gateway().stream_complete(body, call), CompletionChunkWriter(body, call.request_id).write)
        result = await run_while_connected(request.receive, gateway().complete(body, call))
        return JsonResponse(answers.completion(result))

    @router.post(
        "/v1/chat/completions",
        operation_id="createChatCompletion",
        summary="Write the next turn of a conversation",
        response_class=Response,
        responses={
            200: {
                "description": "The turn, or with stream its chunks",
                "model": schemas.ChatAnswer,
                "content": {"text/event-stream": schemas.event_stream_content(_CHAT_EVENTS)},
            },
            **error_responses(TASK_ERRORS),
        },
        openapi_extra=declares_body(ChatBody),
    )
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatBody)
        canonical = body.to_request()
        call = call_context(request, "/v1/chat/completions")
        if body.stream:
            return EventStream(lambda: gateway().stream_chat(canonical, call), ChatChunkWriter(body, call.request_id).write)
        result = await run_while_connected(request.receive, gateway().chat(canonical, call))
        return JsonResponse(answers.chat(result))

    return router
