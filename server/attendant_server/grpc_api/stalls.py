"""Gives back what a stream holds of the gateway when its reader stops reading.

A server asks for the next piece when the last one is on its way; with a reader who takes nothing that is never, and a time
limit of the gateway's does not run while nobody asks it. So a timer runs beside the waiting and closes the stream underneath.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attendant_server.errors import ServingError

MAX_STALL_S = 60.0
"""For a reader to take one piece, beside what the connection's buffers hold."""


class Stall:
    """One piece on its way."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self._closing: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(MAX_STALL_S, self._close)

    def check(self) -> None:
        """Raise ``ServingError`` deadline_exceeded where the reader came back too late."""
        if self._closing is not None:
            raise ServingError("deadline_exceeded", f"the stream was not read for {MAX_STALL_S:g} s")

    def end(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _close(self) -> None:
        # The stream waits between two items, so it can be closed from here; a plain iterator has nothing to close.
        close = getattr(self._items, "aclose", None)

        async def run() -> None:
            if close is not None:
                await close()

        self._closing = asyncio.ensure_future(run())


@contextmanager
def stall_limit(items: Any) -> Iterator[Stall]:
    """Close ``items`` when the block lasts longer than ``MAX_STALL_S``; ``check`` afterwards."""
    stall = Stall(items)
    try:
        yield stall
    finally:
        stall.end()
