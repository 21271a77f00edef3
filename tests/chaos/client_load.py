"""Callers of the Python client that ask without pause, whose streams and calls are to outlive their gateway.

Every answer is compared with what a quiet server said; what is drawn without a seed is asked for again by the seed of its
receipt.
"""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass

from attendant_client import AsyncClient
from attendant_client.to_wire import CompleteOptions
from tests.chaos.load import Question, Record
from tests.e2e.callers import MODEL
from tests.e2e.server_process import ServerProcess

WAYS = ("client-stream", "client-stream-drawn", "client-stream-unseeded", "client-unary")
_TIMEOUT_S = 150.0


@dataclass(slots=True)
class ClientRecord(Record):
    """What the client's callers met with."""

    num_resumed: int = 0


class ClientLoad:
    """``num_callers`` callers that take turns on all ways until they are told to end."""

    def __init__(self, server: ServerProcess, asked: list[Question], *, num_callers: int) -> None:
        self._server = server
        self._asked = asked
        self._num_callers = num_callers
        self._expected: dict[tuple[str, Question], tuple[int, ...]] = {}
        self.record = ClientRecord()
        self.has_begun = asyncio.Event()
        self.is_ending = False

    async def run(self) -> None:
        """Ask every question once in peace, then all of them again and again."""
        async with AsyncClient(self._server.grpc_address, timeout_s=_TIMEOUT_S) as client:
            for question, way in itertools.product(self._asked, WAYS):
                self._expected[way, question] = await self._whole(client, question, _options(question, way))
            self.has_begun.set()
            ways = itertools.cycle(WAYS)
            await asyncio.gather(*(self._ask(client, number, next(ways)) for number in range(self._num_callers)))

    async def _ask(self, client: AsyncClient, number: int, way: str) -> None:
        rng = random.Random(number)
        while not self.is_ending:
            question = rng.choice(self._asked)
            options = _options(question, way)
            try:
                if way == "client-unary":
                    found, expected = await self._whole(client, question, options), self._expected[way, question]
                else:
                    found, seed = await self._stream(client, question, options)
                    expected = self._expected[way, question]
                    if way == "client-stream-unseeded":
                        expected = await self._whole(client, question, {**options, "seed": seed})
            except Exception as error:  # whatever a caller can meet with is what is looked for
                self.record.failures.append(f"{way}: {type(error).__name__}: {str(error)[:200]}")
                continue
            self.record.answers[way] += 1
            if found != expected:
                self.record.differing.append(f"{way}: {question}")

    @staticmethod
    async def _whole(client: AsyncClient, question: Question, options: CompleteOptions) -> tuple[int, ...]:
        return (await client.complete(MODEL, list(question.prompt), **options)).completions[0].token_ids

    async def _stream(self, client: AsyncClient, question: Question, options: CompleteOptions) -> tuple[tuple[int, ...], int]:
        token_ids: tuple[int, ...] = ()
        last_s, longest_s = 0.0, 0.0
        stream = client.stream_complete(MODEL, list(question.prompt), **options)
        async for piece in stream:
            now_s = time.monotonic()
            longest_s = max(longest_s, now_s - last_s if last_s else 0.0)
            last_s = now_s
            token_ids += piece.token_ids
        self.record.pauses_s.append((last_s, longest_s))
        # The first attempt's id has no number of its own.
        self.record.num_resumed += "." in stream.summary.id
        return token_ids, stream.summary.receipt.seed


def _options(question: Question, way: str) -> CompleteOptions:
    options: CompleteOptions = {"max_tokens": question.num_tokens, "ignore_eos": True, "temperature": 0.0}
    if way.endswith(("drawn", "unseeded")):
        options["temperature"] = 1.0
    if way.endswith("drawn"):
        options["seed"] = question.seed
    return options
