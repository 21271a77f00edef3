"""Callers who leave: at a random phase of a request, by every means a transport has, and never for an answer's end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc.aio
import httpx

from attendant.v1 import completion_pb2, inference_service_pb2_grpc
from tests.e2e.callers import grpc_request, http_body
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import Question

Leaver = Callable[[random.Random], Awaitable[None]]


def _question(dice: random.Random) -> Question:
    """Short and long prompts, so that callers leave while queued, during a prefill and during decoding."""
    return Question(start=dice.choice((0, 16, 200)), length=dice.choice((2, 16, 50)))


async def _leave_after(delay_s: float, work: Coroutine[Any, Any, Any]) -> None:
    """Cancel ``work`` when it is not done by then; for a client that is closing its connection or stream."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task,), timeout=delay_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class GrpcLeavers:
    """Cancel a unary call or a stream, break off after some messages, or let a deadline pass."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self.all: tuple[Leaver, ...] = (self._unary, self._stream, self._after_pieces, self._deadline)

    async def _unary(self, dice: random.Random) -> None:
        question = _question(dice)
        call = self._stub.Complete(grpc_request(question.prompt, question.length))
        await asyncio.wait((asyncio.ensure_future(call.code()),), timeout=dice.uniform(0, 0.2))
        call.cancel()

    async def _stream(self, dice: random.Random) -> None:
        await _leave_after(dice.uniform(0, 0.2), self._read_pieces(_question(dice), 1_000))

    async def _after_pieces(self, dice: random.Random) -> None:
        question = _question(dice)
        await self._read_pieces(question, dice.choice((1, 2, question.length - 1)))

    async def _deadline(self, dice: random.Random) -> None:
        question = _question(dice)
        try:
            await self._stub.Complete(grpc_request(question.prompt, question.length), timeout=dice.uniform(0.001, 0.1))
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error.details()

    async def _read_pieces(self, question: Question, num_pieces: int) -> None:
        request = completion_pb2.StreamCompleteRequest(request=grpc_request(question.prompt, question.length))
        call = self._stub.StreamComplete(request)
        try:
            async for _ in call:
                num_pieces -= 1
                if num_pieces <= 0:
                    break
        finally:
            call.cancel()


class HttpLeavers:
    """Close the socket of a whole answer or of a stream, after some time or some events, or let a deadline pass."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.all: tuple[Leaver, ...] = (self._whole, self._stream, self._after_events, self._deadline)

    async def _whole(self, dice: random.Random) -> None:
        question = _question(dice)
        body = http_body(question.prompt, question.length)
        await _leave_after(dice.uniform(0, 0.2), self._client.post("/v1/completions", json=body))

    async def _stream(self, dice: random.Random) -> None:
        await _leave_after(dice.uniform(0, 0.2), self._read_lines(_question(dice), 1_000))

    async def _after_events(self, dice: random.Random) -> None:
        question = _question(dice)
        await self._read_lines(question, dice.choice((1, 2, 2 * question.length)))

    async def _deadline(self, dice: random.Random) -> None:
        question = _question(dice)
        headers = {"x-request-timeout-s": f"{dice.uniform(0.001, 0.1):.4f}"}
        response = await self._client.post("/v1/completions", json=http_body(question.prompt, question.length), headers=headers)
        assert response.status_code in (200, 504), response.text

    async def _read_lines(self, question: Question, num_lines: int) -> None:
        body = http_body(question.prompt, question.length) | {"stream": True}
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            async for _ in response.aiter_lines():
                num_lines -= 1
                if num_lines <= 0:
                    break


async def storm(leavers: tuple[Leaver, ...], *, num_calls: int, num_at_once: int, seed: int) -> None:
    """Make ``num_calls`` calls, ``num_at_once`` side by side, that are all left before their end or near it."""
    dice = random.Random(seed)
    turns = iter(range(num_calls))

    async def caller() -> None:
        for turn in turns:
            await leavers[turn % len(leavers)](dice)

    await asyncio.gather(*(caller() for _ in range(num_at_once)))


async def grpc_storm(server: ServerProcess, *, num_calls: int, num_at_once: int = 48, seed: int = 0) -> None:
    """Storm the gRPC port."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        await storm(GrpcLeavers(channel).all, num_calls=num_calls, num_at_once=num_at_once, seed=seed)


async def http_storm(server: ServerProcess, *, num_calls: int, num_at_once: int = 48, seed: int = 0) -> None:
    """Storm the HTTP port."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
    async with httpx.AsyncClient(base_url=server.http_url, timeout=60, limits=limits) as client:
        await storm(HttpLeavers(client).all, num_calls=num_calls, num_at_once=num_at_once, seed=seed)
