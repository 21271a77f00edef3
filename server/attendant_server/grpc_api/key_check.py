"""What happens to every RPC before its handler sees it, unknown methods and reflection included.

``KeyCheck`` lets nobody in without a key; ``MessageTimeLimit`` ends an RPC whose message does not come. Ray Serve's server
takes no interceptors, so there ``KeyGate`` stands before all other handlers. The handlers ask for the key once more.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from attendant.v1 import inference_service_pb2
from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.grpc_api.call import GrpcCall, shorten
from attendant_server.status import view_error

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""What a load balancer and an orchestrator's probes must reach; they have no key. ``List`` would name the models."""
UNKNOWN_METHOD = "unknown_method"
MAX_MESSAGE_S = 30.0
"""From an RPC's metadata to the last byte of its message."""

_SERVICE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"]
_NAME_BY_PATH = {f"/{_SERVICE.full_name}/{method.name}": method.name for method in _SERVICE.methods}

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
OptionalHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["OptionalHandler"]]


class KeyCheck(grpc.aio.ServerInterceptor):
    """Answer UNAUTHENTICATED to whoever has no key the gateway knows, before a byte of their message is read."""

    def __init__(self, gateway: GatewayTasks) -> None:
        self._gateway = gateway

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> OptionalHandler:
        """Return the method's handler, or one that refuses."""
        return _refusal(self._gateway, handler_call_details) or await continuation(handler_call_details)


class KeyGate(grpc.GenericRpcHandler):
    """The same check as a handler of any method: it claims the RPCs of whoever has no key, and leaves the others alone.

    Guards nothing until it is told of a gateway.
    """

    def __init__(self) -> None:
        self._gateway: GatewayTasks | None = None

    def guard(self, gateway: GatewayTasks) -> None:
        """Ask ``gateway`` for keys from now on."""
        self._gateway = gateway

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "OptionalHandler":
        """Return a handler that refuses, None for who may come in."""
        return None if self._gateway is None else _refusal(self._gateway, handler_call_details)


_GATE = KeyGate()


def process_gate() -> KeyGate:
    """Return the gate of this process: Serve makes the server and we the gateway, and neither can be handed to the other."""
    return _GATE


class MessageTimeLimit(grpc.aio.ServerInterceptor):
    """End an RPC of one message with INVALID_ARGUMENT when the message is not there after ``max_message_s``.

    The handler reads the message itself: grpc's own reading would wait for it as long as the caller likes.
    """

    def __init__(self, max_message_s: float = MAX_MESSAGE_S) -> None:
        self._max_message_s = max_message_s

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> OptionalHandler:
        """Return the method's handler under the limit."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming(handler.unary_stream), *codec)
        return grpc.stream_unary_rpc_method_handler(self._answering(handler.unary_unary), *codec)

    def _answering(self, method: Any) -> Callable[[AsyncIterator[Any], Context], Awaitable[Any]]:
        async def answer(messages: AsyncIterator[Any], context: Context) -> Any:
            return await method(await self._only_message(messages, context), context)

        return answer

    def _streaming(self, method: Any) -> Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]:
        async def stream(messages: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with aclosing(method(await self._only_message(messages, context), context)) as pieces:
                async for piece in pieces:
                    yield piece

        return stream

    async def _only_message(self, messages: AsyncIterator[Any], context: Context) -> Any:
        try:
            async with asyncio.timeout(self._max_message_s):
                return await anext(messages)
        except TimeoutError:
            text = f"the message was not whole after {self._max_message_s:g} s; send it at once, or fewer inputs a request"
        except StopAsyncIteration:
            text = "the RPC has no message; send one, an empty one where there is nothing to say"
        await _abort(context, ServingError("invalid_value", text))


def authorization_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Return the ``authorization`` in an RPC's metadata; of several, the last."""
    values = [value for key, value in metadata or () if key == "authorization" and isinstance(value, str)]
    return values[-1] if values else None


def _refusal(gateway: GatewayTasks, details: grpc.HandlerCallDetails) -> "OptionalHandler":
    if details.method in OPEN_METHODS:
        return None
    try:
        gateway.authenticate(authorization_in(details.invocation_metadata))
    except ServingError as error:
        gateway.count_refusal(_NAME_BY_PATH.get(details.method, UNKNOWN_METHOD), error.code)
        return grpc.stream_stream_rpc_method_handler(_refusing(error))
    return None


def _refusing(error: ServingError) -> Callable[[Any, Context], Awaitable[None]]:
    async def refuse(messages: Any, context: Context) -> None:
        await _abort(context, error)

    return refuse


async def _abort(context: Context, error: ServingError) -> NoReturn:
    call = GrpcCall(context)
    view = view_error(error, request_id=call.request_id)
    call.fail(view)
    await context.abort(grpc.StatusCode[view.grpc_code], shorten(view.message))
