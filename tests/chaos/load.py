"""Callers that ask without pause over every transport and compare each answer with what a quiet server said."""

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc.aio

from attendant.v1 import completion_pb2, inference_service_pb2_grpc
from tests.e2e.callers import WAYS, Caller, Server, grpc_request, open_callers

DRAWN = "grpc-stream-drawn"
UNSEEDED = "grpc-stream-unseeded"
_MAX_RECEIPTS = 200
Stub: TypeAlias = "inference_service_pb2_grpc.InferenceServiceAsyncStub"
_NUM_QUESTIONS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, how many tokens are to follow, and the seed where they are drawn."""

    prompt: tuple[int, ...]
    num_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer to a question that had no seed, and the seed of its receipt."""

    question: Question
    seed: int
    text: str


@dataclass(slots=True)
class Record:
    """What callers met with: answers by transport, what went wrong, and each stream's longest wait for a piece, in seconds.

    ``drawn`` are some of the answers without a seed of their own, to be asked for again by their receipts.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    pauses_s: list[tuple[float, float]] = field(default_factory=list)  # when it ended (monotonic), how long it was
    drawn: list[Drawn] = field(default_factory=list)

    def pauses_between(self, begin_s: float, end_s: float) -> list[float]:
        """Return the pauses that ended within a time."""
        return [pause_s for at_s, pause_s in self.pauses_s if begin_s <= at_s < end_s]


def questions(rng: random.Random, num_tokens: int) -> list[Question]:
    """Draw prompts of a few tokens."""
    return [
        Question(
            tuple(rng.randrange(3, 500) for _ in range(rng.randint(1, 40))), rng.randint(num_tokens // 2, num_tokens), rng.randrange(2**31)
        )
        for _ in range(_NUM_QUESTIONS)
    ]


class Load:
    """``num_callers`` callers that take turns on all transports until they are told to end."""

    def __init__(self, server: Server, asked: list[Question], *, num_callers: int) -> None:
        self._server = server
        self._asked = asked
        self._num_callers = num_callers
        self._expected: dict[tuple[bool, Question], str] = {}
        self._rng = random.Random(num_callers)
        self.record = Record()
        self.is_ending = False

    async def run(self) -> None:
        """Ask every question once in peace, then all of them again and again."""
        async with grpc.aio.insecure_channel(self._server.grpc_address) as channel, open_callers(self._server) as callers:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            for question in self._asked:
                self._expected[False, question] = (await callers["grpc-unary"].greedy(list(question.prompt), question.num_tokens)).text
                self._expected[True, question] = (await self._draw(stub, question, question.seed)).text
            self.record = Record()
            ways = itertools.cycle((*WAYS, DRAWN, UNSEEDED))
            await asyncio.gather(*(self._ask(stub, callers, number, next(ways)) for number in range(self._num_callers)))

    async def _ask(self, stub: Stub, callers: dict[str, Caller], number: int, way: str) -> None:
        rng = random.Random(number)
        while not self.is_ending:
            question = rng.choice(self._asked)
            try:
                if way == DRAWN:
                    text = (await self._draw(stub, question, question.seed)).text
                elif way == UNSEEDED:
                    self._keep(await self._draw(stub, question, None))
                    continue
                else:
                    text = (await callers[way].greedy(list(question.prompt), question.num_tokens)).text
            except Exception as error:  # whatever a caller can meet with is what is looked for
                self.record.failures.append(f"{way}: {type(error).__name__}: {str(error)[:200]}")
                continue
            self.record.answers[way] += 1
            if text != self._expected[way == DRAWN, question]:
                self.record.differing.append(f"{way}: {question}")

    def _keep(self, drawn: Drawn) -> None:
        """Count an answer, and put it among those to be asked for again: a sample of all, each as likely as the next."""
        self.record.answers[UNSEEDED] += 1
        if len(self.record.drawn) < _MAX_RECEIPTS:
            self.record.drawn.append(drawn)
        elif (place := self._rng.randrange(self.record.answers[UNSEEDED])) < _MAX_RECEIPTS:
            self.record.drawn[place] = drawn

    async def _draw(self, stub: Stub, question: Question, seed: int | None) -> Drawn:
        drawn, pause_s = await _draw(stub, question, seed)
        self.record.pauses_s.append((time.monotonic(), pause_s))
        return drawn


async def replay(server: Server, drawn: list[Drawn]) -> list[str]:
    """Ask a server for answers again by the seeds of their receipts; return those that it answers otherwise."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        return [f"replay: {each}" for each in drawn if (await _draw(stub, each.question, each.seed))[0] != each]


async def _draw(stub: Stub, question: Question, seed: int | None) -> tuple[Drawn, float]:
    """Ask for drawn tokens with a seed or without; return the answer and the longest wait for a piece, in seconds."""
    request = grpc_request(list(question.prompt), question.num_tokens)
    request.sampling.temperature = 1.0
    if seed is not None:
        request.sampling.seed = seed
    text, last_s, longest_s, used_seed = "", 0.0, 0.0, 0
    async for piece in stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=request)):
        now_s = time.monotonic()
        longest_s = max(longest_s, now_s - last_s if last_s else 0.0)
        last_s = now_s
        text += piece.delta.text
        used_seed = piece.receipt.seed
    return Drawn(question, used_seed, text), longest_s
