"""Callers of the Python client that are in the middle of everything when their gateway dies, and what they must end with.

Every stream and every unary call has to end as on a quiet server; what was drawn without a seed is asked for again by the
receipt's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

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
_NUM_EACH = 4

Found = tuple[dict[int, tuple[int, ...]], dict[int, str], StreamSummary]


def _options(options: CompleteOptions) -> CompleteOptions:
    return {"max_tokens": _LENGTH, "ignore_eos": True, **options}


class Deaths:
    """Runs streams and calls on ``address`` while ``kill_and_replace`` does what it says, and compares."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._has_begun: set[int] = set()
        self._all_have_begun = asyncio.Event()

    async def check(self, kill_and_replace: Callable[[], Awaitable[None]]) -> int:
        """Return how many streams were resumed. Raises ``AssertionError`` where anything differs or fails."""
        async with AsyncClient(self._address, timeout_s=150.0) as client:
            quiet = await client.complete(MODEL, [BOS], **_options(_WAYS[1]))
            streams = [asyncio.ensure_future(self._stream(client, number, _WAYS[number % 4])) for number in range(4 * _NUM_EACH)]
            blocking = asyncio.ensure_future(asyncio.to_thread(self._stream_blocking))
            unary = [asyncio.ensure_future(client.complete(MODEL, [BOS], **_options(_WAYS[1]))) for _ in range(_NUM_EACH)]
            await self._all_have_begun.wait()
            await kill_and_replace()
            found = await asyncio.gather(*streams)
            answers = await asyncio.gather(*unary)
            text = await blocking
            for answer in answers:
                assert answer.completions == quiet.completions
            for number, each in enumerate(found):
                await self._compare(client, _WAYS[number % 4], each)
            assert text == (await client.complete(MODEL, [BOS], **_options(_WAYS[0]))).completions[0].text
        return sum("." in summary.id for _, _, summary in found)

    async def _stream(self, client: AsyncClient, number: int, options: CompleteOptions) -> Found:
        token_ids: dict[int, tuple[int, ...]] = {}
        texts: dict[int, str] = {}
        stream = client.stream_complete(MODEL, [BOS], request_id=f"stream{number}", **_options(options))
        async for piece in stream:
            token_ids[piece.index] = token_ids.get(piece.index, ()) + piece.token_ids
            texts[piece.index] = texts.get(piece.index, "") + piece.text
            self._note(number)
        return token_ids, texts, stream.summary

    def _stream_blocking(self) -> str:
        with Client(self._address, timeout_s=150.0) as client:
            return "".join(piece.text for piece in client.stream_complete(MODEL, [BOS], **_options(_WAYS[0])))

    def _note(self, number: int) -> None:
        self._has_begun.add(number)
        if len(self._has_begun) == 4 * _NUM_EACH:
            self._all_have_begun.set()

    async def _compare(self, client: AsyncClient, options: CompleteOptions, found: Found) -> None:
        token_ids, texts, summary = found
        replay: dict[str, Any] = {**_options(options), "seed": summary.receipt.seed}
        answer = await client.complete(MODEL, [BOS], **replay)
        assert {each.index: each.token_ids for each in answer.completions} == token_ids
        assert {each.index: each.text for each in answer.completions} == texts
        assert answer.usage.completion_tokens == summary.usage.completion_tokens
        assert answer.receipt == summary.receipt
