"""The RPCs of ``attendant.v1.InferenceService`` in front of a gateway.

The same methods serve grpc.aio and, inherited by a Ray Serve ingress deployment, Serve's own gRPC server; that is why their
second parameter has Ray's name for it. Closing or cancelling an RPC cancels the gateway's work, wherever it stands.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.message import Message

from attendant.v1 import (
    chat_pb2,
    classification_pb2,
    completion_pb2,
    embedding_pb2,
    few_shot_pb2,
    models_pb2,
    tokenization_pb2,
)
from attendant_server.errors import ServingError
from attendant_server.gateway import requests as canonical
from attendant_server.gateway.interface import GatewayTasks, StreamItem
from attendant_server.grpc_api import requests, responses
from attendant_server.grpc_api.call import GrpcCall, GrpcContext
from attendant_server.grpc_api.deserializer import MalformedMessage
from attendant_server.grpc_api.stalls import stall_limit
from attendant_server.status import view_error

_log = logging.getLogger(__name__)

ResponseT = TypeVar("ResponseT", bound=Message)

# What an RPC's message becomes, so that a field which its task does not have gets its "did you mean".
_REQUEST_TYPES: Mapping[str, type[canonical.StrictModel]] = MappingProxyType(
    {
        "Complete": canonical.CompletionRequest,
        "StreamComplete": canonical.CompletionRequest,
        "Chat": canonical.ChatRequest,
        "StreamChat": canonical.ChatRequest,
        "Embed": canonical.EmbedRequest,
        "Classify": canonical.ClassifyRequest,
        "FewShot": canonical.FewShotRequest,
        "Tokenize": canonical.TokenizeRequest,
        "Detokenize": canonical.DetokenizeRequest,
        "LoadModel": canonical.LoadModelRequest,
        "UnloadModel": canonical.UnloadModelRequest,
    }
)


class InferenceHandlers:
    """One method an RPC: ``(request, grpc_context)`` to a response, or to an async generator of them.

    A request of more than ``max_body_bytes`` is refused.
    """

    def __init__(self, gateway: GatewayTasks, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._max_body_bytes = max_body_bytes

    async def Complete(self, request: completion_pb2.CompleteRequest, grpc_context: GrpcContext) -> completion_pb2.CompleteResponse:
        """Continue prompts."""

        async def task(call: GrpcCall) -> completion_pb2.CompleteResponse:
            return responses.completion(await self._gateway.complete(requests.completion(request), call.hand_over()), call.request_id)

        return await self._answer("Complete", request, grpc_context, task, completion_pb2.CompleteResponse())

    async def StreamComplete(
        self, request: completion_pb2.StreamCompleteRequest, grpc_context: GrpcContext
    ) -> AsyncGenerator[completion_pb2.StreamCompleteResponse, None]:
        """Continue prompts, streamed."""

        async def admit(call: GrpcCall) -> AsyncIterator[StreamItem]:
            return await self._gateway.stream_complete(
                requests.completion(request.request), call.hand_over(), resume=requests.resume(request)
            )

        def write(item: StreamItem, request_id: str) -> completion_pb2.StreamCompleteResponse:
            return responses.completion_piece(item, request_id, request.request.model)

        async with aclosing(self._stream("StreamComplete", request, grpc_context, admit, write)) as pieces:
            async for piece in pieces:
                yield piece

    async def Chat(self, request: chat_pb2.ChatRequest, grpc_context: GrpcContext) -> chat_pb2.ChatResponse:
        """Write the next turn."""

        async def task(call: GrpcCall) -> chat_pb2.ChatResponse:
            return responses.chat(await self._gateway.chat(requests.chat(request), call.hand_over()), call.request_id)

        return await self._answer("Chat", request, grpc_context, task, chat_pb2.ChatResponse())

    async def StreamChat(
        self, request: chat_pb2.StreamChatRequest, grpc_context: GrpcContext
    ) -> AsyncGenerator[chat_pb2.StreamChatResponse, None]:
        """Write the next turn, streamed."""

        async def admit(call: GrpcCall) -> AsyncIterator[StreamItem]:
            return await self._gateway.stream_chat(requests.chat(request.request), call.hand_over(), resume=requests.resume(request))

        def write(item: StreamItem, request_id: str) -> chat_pb2.StreamChatResponse:
            return responses.chat_piece(item, request_id, request.request.model)

        async with aclosing(self._stream("StreamChat", request, grpc_context, admit, write)) as pieces:
            async for piece in pieces:
                yield piece

    async def Embed(self, request: embedding_pb2.EmbedRequest, grpc_context: GrpcContext) -> embedding_pb2.EmbedResponse:
        """Turn inputs into vectors."""

        async def task(call: GrpcCall) -> embedding_pb2.EmbedResponse:
            return responses.embed(await self._gateway.embed(requests.embed(request), call.hand_over()), call.request_id)

        return await self._answer("Embed", request, grpc_context, task, embedding_pb2.EmbedResponse())

    async def Classify(self, request: classification_pb2.ClassifyRequest, grpc_context: GrpcContext) -> classification_pb2.ClassifyResponse:
        """Label inputs."""

        async def task(call: GrpcCall) -> classification_pb2.ClassifyResponse:
            return responses.classify(await self._gateway.classify(requests.classify(request), call.hand_over()), call.request_id)

        return await self._answer("Classify", request, grpc_context, task, classification_pb2.ClassifyResponse())

    async def FewShot(self, request: few_shot_pb2.FewShotRequest, grpc_context: GrpcContext) -> few_shot_pb2.FewShotResponse:
        """Do a task from examples."""

        async def task(call: GrpcCall) -> few_shot_pb2.FewShotResponse:
            return responses.few_shot(await self._gateway.few_shot(requests.few_shot(request), call.hand_over()), call.request_id)

        return await self._answer("FewShot", request, grpc_context, task, few_shot_pb2.FewShotResponse())

    async def Tokenize(self, request: tokenization_pb2.TokenizeRequest, grpc_context: GrpcContext) -> tokenization_pb2.TokenizeResponse:
        """Show how a model reads a text."""

        async def task(call: GrpcCall) -> tokenization_pb2.TokenizeResponse:
            return responses.tokenize(await self._gateway.tokenize(requests.tokenize(request), call.hand_over()))

        return await self._answer("Tokenize", request, grpc_context, task, tokenization_pb2.TokenizeResponse())

    async def Detokenize(
        self, request: tokenization_pb2.DetokenizeRequest, grpc_context: GrpcContext
    ) -> tokenization_pb2.DetokenizeResponse:
        """Turn token ids back into text."""

        async def task(call: GrpcCall) -> tokenization_pb2.DetokenizeResponse:
            return tokenization_pb2.DetokenizeResponse(text=await self._gateway.detokenize(requests.detokenize(request), call.hand_over()))

        return await self._answer("Detokenize", request, grpc_context, task, tokenization_pb2.DetokenizeResponse())

    async def ListModels(self, request: models_pb2.ListModelsRequest, grpc_context: GrpcContext) -> models_pb2.ListModelsResponse:
        """List the served models."""

        async def task(call: GrpcCall) -> models_pb2.ListModelsResponse:
            return models_pb2.ListModelsResponse(models=[responses.model(card) for card in self._gateway.list_models()])

        return await self._answer("ListModels", request, grpc_context, task, models_pb2.ListModelsResponse())

    async def GetModel(self, request: models_pb2.GetModelRequest, grpc_context: GrpcContext) -> models_pb2.GetModelResponse:
        """Describe one served model."""

        async def task(call: GrpcCall) -> models_pb2.GetModelResponse:
            return models_pb2.GetModelResponse(model=responses.model(self._gateway.get_model(request.model)))

        return await self._answer("GetModel", request, grpc_context, task, models_pb2.GetModelResponse())

    async def LoadModel(self, request: models_pb2.LoadModelRequest, grpc_context: GrpcContext) -> models_pb2.LoadModelResponse:
        """Load a model."""

        async def task(call: GrpcCall) -> models_pb2.LoadModelResponse:
            self._gateway.require_admin(call.authorization)
            card = await self._gateway.load_model(requests.load_model(request), call.hand_over())
            return models_pb2.LoadModelResponse(model=responses.model(card))

        return await self._answer("LoadModel", request, grpc_context, task, models_pb2.LoadModelResponse())

    async def UnloadModel(self, request: models_pb2.UnloadModelRequest, grpc_context: GrpcContext) -> models_pb2.UnloadModelResponse:
        """Take a model away."""

        async def task(call: GrpcCall) -> models_pb2.UnloadModelResponse:
            self._gateway.require_admin(call.authorization)
            card = await self._gateway.unload_model(requests.unload_model(request), call.hand_over())
            return models_pb2.UnloadModelResponse(model=responses.model(card))

        return await self._answer("UnloadModel", request, grpc_context, task, models_pb2.UnloadModelResponse())

    async def _answer(
        self,
        endpoint: str,
        request: Message | MalformedMessage,
        context: GrpcContext,
        task: Callable[[GrpcCall], Awaitable[ResponseT]],
        empty: ResponseT,
    ) -> ResponseT:
        """Run a unary RPC; after an error the status is on the context and ``empty`` is thrown away by the server."""
        call = GrpcCall(context)
        try:
            self._let_in(call, endpoint, request)
            return await task(call)
        except Exception as error:
            self._fail(call, endpoint, error)
            return empty

    async def _stream(
        self,
        endpoint: str,
        request: Message | MalformedMessage,
        context: GrpcContext,
        admit: Callable[[GrpcCall], Awaitable[AsyncIterator[StreamItem]]],
        write: Callable[[StreamItem, str], ResponseT],
    ) -> AsyncGenerator[ResponseT, None]:
        """Run a streaming RPC; after an error the status is on the context and the stream ends."""
        call = GrpcCall(context)
        try:
            self._let_in(call, endpoint, request)
            items: Any = await admit(call)
            try:
                async for item in items:
                    piece = write(item, call.request_id)
                    with stall_limit(items) as stall:
                        yield piece
                    stall.check()
            finally:
                # Closing is what tells the gateway that nobody listens any more; a plain iterator has nothing to close.
                close = getattr(items, "aclose", None)
                if close is not None:
                    await close()
        except Exception as error:
            self._fail(call, endpoint, error)

    def _let_in(self, call: GrpcCall, endpoint: str, request: Message | MalformedMessage) -> None:
        """Authenticate first, so that nobody without a key learns what the server thinks of their request."""
        tenant = self._gateway.authenticate(call.authorization)
        if isinstance(request, MalformedMessage):
            raise ServingError(
                "invalid_value",
                f"the {request.num_bytes} bytes of the request are not a valid {request.type_name} message; "
                "generate the client from the same .proto files, and send text as UTF-8",
            )
        num_bytes = request.ByteSize()
        if num_bytes > self._max_body_bytes:
            raise ServingError(
                "request_too_large",
                f"the request has {num_bytes} bytes; this server takes at most {self._max_body_bytes}; send fewer or shorter inputs",
            )
        call.let_in(endpoint, tenant)

    def _fail(self, call: GrpcCall, endpoint: str, error: Exception) -> None:
        view = view_error(error, request_type=_REQUEST_TYPES.get(endpoint), request_id=call.request_id)
        if not call.is_handed_over:
            self._gateway.count_refusal(endpoint, view.code)
        if view.code == "server_error":
            _log.error("%s failed", endpoint, extra={"request_id": call.request_id}, exc_info=error)
        call.fail(view)
