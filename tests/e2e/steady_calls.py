"""Callers who ask for the whole story again and again while something else is done to their server; every answer is checked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.e2e.callers import WAYS, Server, open_callers
from tests.e2e.story import WHOLE

_PAUSE_S = 0.2
"""Of each caller between two calls: what is done meanwhile needs the cores too."""


@contextlib.asynccontextmanager
async def steady_calls(server: Server, *, num_callers: int = len(WAYS)) -> AsyncIterator[None]:
    """Have callers of all ways call while the body runs, and each once more after it. Any wrong or failed answer ends the body."""
    is_over = asyncio.Event()
    async with open_callers(server) as callers:

        async def call_on(way: str) -> None:
            while not is_over.is_set():
                WHOLE.check(await callers[way].greedy(WHOLE.prompt, WHOLE.length))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), _PAUSE_S)
            WHOLE.check(await callers[way].greedy(WHOLE.prompt, WHOLE.length))

        async with asyncio.TaskGroup() as group:
            for number in range(num_callers):
                group.create_task(call_on(WAYS[number % len(WAYS)]))
            try:
                yield
            finally:
                is_over.set()
