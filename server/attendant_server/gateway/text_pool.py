"""A few threads for tokenising and rendering, so that a long text never holds up everybody's streams.

The threads' queue needs no bound of its own: only calls with a permit use it, one piece of work at a time each.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from attendant_server.gateway.admission import Deadline

NUM_THREADS = 2
"""The tokenizers library spreads work over cores by itself; two threads keep one long text from blocking short ones."""
NUM_CHAT_THREADS = 4
"""They wait for the processes that render; apart from the others, so that a template gone wrong holds up chats at most."""

P = ParamSpec("P")
T = TypeVar("T")


class TextPool:
    """The threads of one gateway."""

    def __init__(self, num_threads: int = NUM_THREADS) -> None:
        self._executor = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="attendant-text")
        self._chat_executor = ThreadPoolExecutor(max_workers=NUM_CHAT_THREADS, thread_name_prefix="attendant-chat")

    async def run(self, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(...)``, computed in a thread. Raises what it raises, and deadline_exceeded when it takes too long."""
        return await self._run_in(self._executor, deadline, partial(function, *args, **kwargs))

    async def run_chat(self, deadline: Deadline, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the same for a ``function`` that renders a conversation first."""
        return await self._run_in(self._chat_executor, deadline, partial(function, *args, **kwargs))

    async def _run_in(self, executor: ThreadPoolExecutor, deadline: Deadline, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        return await deadline.guard(asyncio.get_running_loop().run_in_executor(executor, partial(context.run, work)))

    def close(self) -> None:
        """Take no more work; what runs is left to end by itself."""
        for executor in (self._executor, self._chat_executor):
            executor.shutdown(wait=False, cancel_futures=True)
