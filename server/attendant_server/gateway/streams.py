"""A completion as a stream: pieces of a generation on their way to one reader.

An object and not a generator, because what it holds must be given back even when nobody ever asks for its first item.
"""

import asyncio
import threading
from collections import deque

from attendant_engine.types import ModelInfo
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.generation import Generation, OutputPiece
from attendant_server.gateway.interface import StreamItem
from attendant_server.gateway.results import CompletionDelta, Receipt, StreamEnd
from attendant_server.gateway.resumption import ResumePoint


class CompletionStream:
    """Yields ``CompletionDelta`` and, last, ``StreamEnd``. Ends its call at the end, on an error, on ``aclose`` and when dropped."""

    def __init__(self, generation: Generation, call: ActiveCall, *, num_each: int, info: ModelInfo, fingerprint: str) -> None:
        self._generation = generation
        self._call = call
        self._num_each = num_each
        self._info = info
        self._fingerprint = fingerprint
        self._told_cached_tokens: int | None = None
        self._ready: deque[StreamItem] = deque()
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()

    def __aiter__(self) -> "CompletionStream":
        return self

    async def __anext__(self) -> StreamItem:
        """Wait for the next item. Raises ``ServingError`` when the request ends without an answer."""
        if self._is_over and not self._ready:
            raise StopAsyncIteration
        if not self._ready:
            await self._refill()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop: what still runs is aborted."""
        self._ready.clear()
        self._finish(GeneratorExit())

    def __del__(self) -> None:
        if self._is_over:
            return
        if threading.get_ident() == self._thread_id:
            self._finish(GeneratorExit())
        elif not self._loop.is_closed():
            # The garbage collector runs on any thread; what is held belongs to the loop's.
            self._loop.call_soon_threadsafe(self._call.end, GeneratorExit())

    async def _refill(self) -> None:
        try:
            pieces = await self._generation.next()
        except BaseException as error:
            shown = self._finish(error)
            if shown is None or shown is error:
                raise
            raise shown from None
        usage = self._call.usage = self._generation.usage
        for piece in pieces:
            self._ready.append(self._delta(piece, self._resume_token()))
        if not pieces:
            receipt = Receipt.of(self._generation.served_by or self._info, self._generation.seed)
            self._ready.append(StreamEnd(usage=usage, receipt=receipt, timing=self._generation.timing))
            self._finish(None)

    def _finish(self, error: BaseException | None) -> BaseException | None:
        self._is_over = True
        return self._call.end(error)

    def _resume_token(self) -> bytes:
        """Return what the next piece is to carry: a token where there is none yet or what it says has changed."""
        cached_tokens = self._call.usage.cached_tokens
        if cached_tokens == self._told_cached_tokens:
            return b""
        self._told_cached_tokens = cached_tokens
        receipt = Receipt.of(self._generation.served_by or self._info)
        return ResumePoint(fingerprint=self._fingerprint, seed=self._generation.seed, receipt=receipt, cached_tokens=cached_tokens).token()

    def _delta(self, piece: OutputPiece, resume_token: bytes) -> CompletionDelta:
        return CompletionDelta(
            index=piece.prompt_idx * self._num_each + piece.index,
            text=piece.piece.text,
            token_ids=piece.piece.token_ids,
            usage=self._call.usage,
            finish_reason=piece.piece.finish_reason,
            stop_text=piece.piece.stop_text,
            stop_token_id=piece.piece.stop_token_id,
            logprobs=piece.piece.logprobs,
            prompt_logprobs=piece.prompt_logprobs,
            resume_token=resume_token,
        )
