"""Streams of pieces, blocking and async: iterate, close early, read the summary at the end.

A stream whose connection or gateway is lost goes on behind what has come, with the tokens that would have come. Where it
cannot, or may not, what ends without the server's last message raises ``StreamTruncatedError``, so that part of an answer
is never taken for the whole.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from attendant_client.errors import AttendantError, StreamTruncatedError
from attendant_client.headway import Headway
from attendant_client.results import StreamSummary
from attendant_client.retry import Attempts

PieceT = TypeVar("PieceT")

_RESUME_FIELD = "resume"  # what the server names where it will not go on with a stream


class _Progress(Generic[PieceT]):
    """What both kinds of stream know of how far they are."""

    def __init__(
        self, open_call: Callable[..., Any], headway: Headway, read: Callable[[Any], PieceT | StreamSummary | None], attempts: Attempts
    ) -> None:
        self._open_call = open_call
        self._headway = headway
        self._read = read
        self._attempts = attempts
        self._has_begun = False
        self._is_closed = False
        self._summary: StreamSummary | None = None
        self._call = self._open()

    @property
    def summary(self) -> StreamSummary:
        """Usage, receipt and timing of the whole, once the stream has been read to its end; ``RuntimeError`` before."""
        if self._summary is None:
            raise RuntimeError("The summary of a stream is there once the stream has been read to its end.")
        return self._summary

    def close(self) -> None:
        """Stop: the server gives the request up at once. Closing twice, or after the end, does nothing."""
        self._is_closed = True
        self._call.cancel()

    def _is_stopped(self) -> bool:
        return self._is_closed

    def _is_over(self) -> bool:
        """True when nothing more is wanted or to come: what happens to the connection after the last message is no error."""
        return self._is_closed or self._summary is not None

    def _open(self) -> Any:
        return self._open_call(self._headway.request(), **self._attempts.arguments())

    def _reopen(self) -> None:
        if not self._is_closed:
            self._call = self._open()

    def _backoff_s(self, rpc_error: Any) -> float:
        """Seconds to wait before another try; raises, and the stream is over, if there is none."""
        try:
            return self._attempts.failed(rpc_error, may_retry=self._may_retry())
        except AttendantError as error:
            self._is_closed = True
            if self._has_begun and error.param == _RESUME_FIELD:
                raise StreamTruncatedError(error.message, code="not_ready", request_id=error.request_id) from error
            raise

    def _may_retry(self) -> bool:
        return not self._has_begun or self._headway.can_resume

    def _take(self, message: Any) -> PieceT | None:
        """Return the piece of a message, None for a message without one."""
        self._has_begun = True
        self._attempts.succeeded()
        self._headway.note(message)
        item = self._read(message)
        if isinstance(item, StreamSummary):
            self._summary = item
            return None
        return item

    def _after_end_s(self) -> float | None:
        """Seconds to wait before going on with a stream that ended without its last message; None for one that is over.

        Raises ``StreamTruncatedError`` where it cannot go on.
        """
        if self._is_over():
            self._is_closed = True
            return None
        error = StreamTruncatedError(
            f"The stream from {self._attempts.address} ended without its last message; what came before it is only a part.",
            code="not_ready",
            request_id=self._attempts.request_id,
        )
        try:
            return self._attempts.failed_with(error, was_reached=True, may_retry=self._headway.can_resume)
        except AttendantError:
            self._is_closed = True
            raise


class Stream(_Progress[PieceT]):
    """Pieces of an answer as they come; also a context manager that closes the stream."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PieceT:
        while not self._is_stopped():
            try:
                piece = self._take(next(self._call))
            except StopIteration:
                pause_s = self._after_end_s()
                if pause_s is None:
                    break
                time.sleep(pause_s)
                self._reopen()
                continue
            except grpc.RpcError as error:
                if self._is_over():
                    break
                time.sleep(self._backoff_s(error))
                self._reopen()
                continue
            if piece is not None:
                return piece
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncStream(_Progress[PieceT]):
    """The same for ``async for`` and ``async with``; cancelling the task that reads it closes it."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PieceT:
        while not self._is_stopped():
            try:
                message = await self._call.read()
            except grpc.aio.AioRpcError as error:
                if self._is_over():
                    break
                await asyncio.sleep(self._backoff_s(error))
                self._reopen()
                continue
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._is_over() and (task is None or not task.cancelling()):
                    # Closed by another task while this one was reading: the end, not a cancellation of the reader.
                    break
                self.close()
                raise
            if message is grpc.aio.EOF:
                pause_s = self._after_end_s()
                if pause_s is None:
                    break
                await asyncio.sleep(pause_s)
                self._reopen()
                continue
            piece = self._take(message)
            if piece is not None:
                return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close, under the name that ``contextlib.aclosing`` uses."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
