"""From running to gone: the operator's signals, turned into two events that whoever hosts can wait for.

The first SIGTERM or Ctrl-C asks for a drain, the second for an end without waiting. Knows nothing of what is hosted.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """What the operator asked for so far."""

    def __init__(self) -> None:
        self._drain = asyncio.Event()
        self._quit = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        """True from the first signal on."""
        return self._drain.is_set()

    @property
    def is_urgent(self) -> bool:
        """True from the second signal on."""
        return self._quit.is_set()

    def ask(self) -> None:
        """Ask for a drain; when that was asked for already, for an immediate end."""
        if self._drain.is_set():
            self._quit.set()
        self._drain.set()

    async def wait(self) -> None:
        """Return when a drain was asked for."""
        await self._drain.wait()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT of this process ask. For the main thread, inside a running loop."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def run_unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run ``work`` to its end and return True, or cancel it at the first request to stop and return False."""
        return await self._race(work, self._drain)

    async def run_within(self, work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
        """Run ``work`` to its end and return True, or cancel it after ``timeout_s`` or at a second signal and return False."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._race(work, self._quit)
        except TimeoutError:
            return False

    @staticmethod
    async def _race(work: Coroutine[Any, Any, None], event: asyncio.Event) -> bool:
        task = asyncio.ensure_future(work)
        waiter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            waiter.cancel()
            task.cancel()
            await asyncio.gather(task, waiter, return_exceptions=True)
