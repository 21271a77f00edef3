"""The four ways to a completion, as small independent clients: what they send and read is the public contract alone."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio
import httpx

from attendant.v1 import common_pb2, completion_pb2, inference_service_pb2_grpc

MODEL = "stories260k"


class Server(Protocol):
    """Where a server is reached, and what it logged."""

    @property
    def http_url(self) -> str:
        """Base address of HTTP."""
        ...

    @property
    def grpc_address(self) -> str:
        """host:port of gRPC."""
        ...

    @property
    def stderr(self) -> str:
        """What it logged so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished greedy completion; HTTP has no token ids."""

    text: str
    num_tokens: int
    num_cached_tokens: int
    token_ids: tuple[int, ...] | None = None


class Caller(Protocol):
    """One way to ask."""

    async def greedy(self, prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> Answer:
        """Continue ``prompt`` by exactly ``max_tokens`` of the most probable tokens; an unused ``salt`` finds the prefix cache cold."""
        ...


class GrpcUnary:
    """``Complete``."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

    async def greedy(self, prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> Answer:
        response = await self._stub.Complete(grpc_request(prompt, max_tokens, salt=salt, model=model))
        (completion,) = response.completions
        return Answer(
            text=completion.text,
            num_tokens=response.usage.completion_tokens,
            num_cached_tokens=response.usage.cached_tokens,
            token_ids=tuple(completion.token_ids),
        )


class GrpcStream:
    """``StreamComplete``."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

    async def greedy(self, prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> Answer:
        request = completion_pb2.StreamCompleteRequest(request=grpc_request(prompt, max_tokens, salt=salt, model=model))
        text, usage = "", None
        token_ids: list[int] = []
        async for piece in self._stub.StreamComplete(request):
            if piece.HasField("delta"):
                text += piece.delta.text
                token_ids += piece.delta.token_ids
            else:
                usage = piece.usage
        assert usage is not None, "the stream ended without its last message"
        return Answer(text=text, num_tokens=usage.completion_tokens, num_cached_tokens=usage.cached_tokens, token_ids=tuple(token_ids))


class Http:
    """``POST /v1/completions``."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def greedy(self, prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> Answer:
        response = await self._client.post("/v1/completions", json=http_body(prompt, max_tokens, salt=salt, model=model))
        response.raise_for_status()
        body = response.json()
        return _http_answer(body["choices"][0]["text"], body["usage"])


class Sse:
    """``POST /v1/completions`` with ``stream``."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def greedy(self, prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> Answer:
        body = http_body(prompt, max_tokens, salt=salt, model=model) | {"stream": True, "stream_options": {"include_usage": True}}
        text, usage, is_done = "", None, False
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                is_done = line == "data: [DONE]"
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    text += "".join(choice["text"] for choice in chunk["choices"])
                    usage = chunk.get("usage") or usage
                elif is_done:
                    break
        assert is_done and usage is not None, "the stream ended without its last events"
        return _http_answer(text, usage)


def _http_answer(text: str, usage: dict[str, Any]) -> Answer:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answer(text=text, num_tokens=usage["completion_tokens"], num_cached_tokens=cached)


def grpc_request(prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> completion_pb2.CompleteRequest:
    """A greedy request of exactly ``max_tokens`` tokens."""
    return completion_pb2.CompleteRequest(
        model=model,
        prompts=[common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=prompt))],
        sampling=common_pb2.SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True),
        cache_salt=salt,
    )


def http_body(prompt: list[int], max_tokens: int, *, salt: str = "", model: str = MODEL) -> dict[str, Any]:
    """The same as a JSON body."""
    return {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "cache_salt": salt}


WAYS = ("grpc-unary", "grpc-stream", "http", "sse")


@asynccontextmanager
async def _callers(server: Server) -> AsyncIterator[dict[str, Caller]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        grpc.aio.insecure_channel(server.grpc_address) as channel,
        httpx.AsyncClient(base_url=server.http_url, timeout=60, limits=limits) as client,
    ):
        ways: tuple[Caller, ...] = (GrpcUnary(channel), GrpcStream(channel), Http(client), Sse(client))
        yield dict(zip(WAYS, ways, strict=True))


def open_callers(server: Server) -> AbstractAsyncContextManager[dict[str, Caller]]:
    """Connect all four, for as long as the block lasts."""
    return _callers(server)
