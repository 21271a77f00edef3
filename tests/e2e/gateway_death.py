"""Callers of the Python client that are in the middle of everything when their gateway dies, and what they must end with.

Every stream and every unary call has to end as on a quiet server; what was drawn without a seed is asked for again by the
receipt's. Each caller asks again and again, and the gateway dies once all have asked twice: then some streams are in their middle,
however far behind this process is. Of the first ones the engine may have sent all before one is read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from attendant_client import AsyncClient, Client
from attendant_client.results import StreamSummary
from attendant_client.to_wire import CompleteOptions
from tests.e2e.callers import MODEL
from tests.e2e.story import BOS

_WAYS: tuple[CompleteOptions, ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5, "n": 4},
    {"temperature": 1.0, "n": 3, "logprobs": 1},
    {"temperature": 0.8, "seed": 9, "stop": ["big red", "Lily"], "min_tokens": 30, "presence_penalty": 0.5},
)
_LENGTH = 450
_NUM_EACH = 2

_T = TypeVar("_T")
Found = tuple[dict[int, tuple[int, ...]], dict[int, str], StreamSummary]


def _options(options: CompleteOptions) -> CompleteOptions:
    return {"max_tokens": _LENGTH, "ignore_eos": True, **options}


class Deaths:
    """Runs streams and calls on ``address`` while ``kill_and_replace`` does what it says, and compares."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._num_first_asked = 0  # that have not been answered
        self._all_ask_again = asyncio.Event()
        self._is_dying = asyncio.Event()

    async def check(self, kill_and_replace: Callable[[], Awaitable[None]]) -> int:
        """Return how many streams were resumed. Raises ``AssertionError`` where anything differs or fails."""
        # Before the death, both: a client that never had an answer does not wait for a server.
        with Client(self._address, timeout_s=150.0) as blocking_client:
            async with AsyncClient(self._address, timeout_s=150.0) as client:
                return await self._check(client, blocking_client, kill_and_replace)

    async def _check(self, client: AsyncClient, blocking_client: Client, kill_and_replace: Callable[[], Awaitable[None]]) -> int:
        quiet = await client.complete(MODEL, [BOS], **_options(_WAYS[1]))
        streams = [self._last(partial(self._stream, client, number, _WAYS[number % 4])) for number in range(4 * _NUM_EACH)]
        unary = [self._last(partial(client.complete, MODEL, [BOS], **_options(_WAYS[1]))) for _ in range(_NUM_EACH)]
        blocking = self._last(partial(asyncio.to_thread, _stream_blocking, blocking_client))
        all_asked = asyncio.gather(asyncio.gather(*streams), asyncio.gather(*unary), blocking)
        await self._all_ask_again.wait()
        self._is_dying.set()
        await kill_and_replace()
        found, answers, text = await all_asked
        for answer in answers:
            assert answer.completions == quiet.completions
        for number, each in enumerate(found):
            await self._compare(client, _WAYS[number % 4], each)
        assert text == (await client.complete(MODEL, [BOS], **_options(_WAYS[0]))).completions[0].text
        return sum("." in summary.id for _, _, summary in found)

    async def _last(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return what ``ask`` brought that was not over when the gateway died."""
        self._num_first_asked += 1
        try:
            answer = await ask()
        finally:
            self._num_first_asked -= 1
            if not self._num_first_asked:
                self._all_ask_again.set()
        while not self._is_dying.is_set():
            answer = await ask()
        return answer

    async def _stream(self, client: AsyncClient, number: int, options: CompleteOptions) -> Found:
        token_ids: dict[int, tuple[int, ...]] = {}
        texts: dict[int, str] = {}
        stream = client.stream_complete(MODEL, [BOS], request_id=f"stream{number}", **_options(options))
        async for piece in stream:
            token_ids[piece.index] = token_ids.get(piece.index, ()) + piece.token_ids
            texts[piece.index] = texts.get(piece.index, "") + piece.text
        return token_ids, texts, stream.summary

    async def _compare(self, client: AsyncClient, options: CompleteOptions, found: Found) -> None:
        token_ids, texts, summary = found
        replay: dict[str, Any] = {**_options(options), "seed": summary.receipt.seed}
        answer = await client.complete(MODEL, [BOS], **replay)
        assert {each.index: each.token_ids for each in answer.completions} == token_ids
        assert {each.index: each.text for each in answer.completions} == texts
        assert answer.usage.completion_tokens == summary.usage.completion_tokens
        assert answer.receipt == summary.receipt


def _stream_blocking(client: Client) -> str:
    return "".join(piece.text for piece in client.stream_complete(MODEL, [BOS], **_options(_WAYS[0])))
