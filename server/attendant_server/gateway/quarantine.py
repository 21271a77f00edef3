"""Requests that may have taken their replica with them: each is tried once more, and no two of them side by side.

When a replica dies, whoever had got something from it goes on elsewhere at once: the step that killed it is seldom his,
since many came before it. Who had got nothing yet may have done it with his first step. He waits until a replica has
outlived the other by ``SETTLE_S`` (two that die together, as of a node, accuse nobody), and is then the only suspect there.
His first output clears him. If that replica too is lost before it, it is him, and he is not tried again. One that fails in
the middle of its answer is so found one replica later.
"""

import asyncio
from collections.abc import Callable, Hashable

from attendant_server.link.base import NOT_READY_TEXTS, ReplicaLink

SETTLE_S = 1.0
"""A death shows within a tenth of a second; one that a stopped process makes takes its two, and then suspects nobody twice."""


class Quarantine:
    """The suspects of one model's replicas: at most one on each, the others in line."""

    def __init__(self) -> None:
        self._occupied: set[ReplicaLink] = set()
        self._line: dict[Hashable, Callable[[], object]] = {}

    def enter(self, link: ReplicaLink) -> bool:
        """Take the one place on ``link``; return False where another suspect has it."""
        if link in self._occupied:
            return False
        self._occupied.add(link)
        return True

    def leave(self, link: ReplicaLink) -> None:
        """Give the place back, and let the next in line try."""
        self._occupied.discard(link)
        self.pass_on()

    def stand_in_line(self, key: Hashable, try_again: Callable[[], object]) -> None:
        """Have ``try_again`` called when a place is free; a second call with the same key keeps the first one's turn."""
        self._line.setdefault(key, try_again)

    def step_out(self, key: Hashable) -> None:
        """Leave the line: the place is no longer wanted."""
        self._line.pop(key, None)

    def pass_on(self) -> None:
        """Let the next in line try, for one whose turn came and who has no use for it."""
        if self._line:
            key = next(iter(self._line))
            asyncio.get_running_loop().call_soon(self._line.pop(key))


def is_death(link: ReplicaLink, message: str) -> bool:
    """Tell a replica that is lost from one that refuses because it drains; ``message`` is what its request ended with."""
    if message == NOT_READY_TEXTS["failed"]:
        return True
    return not link.is_ready and not link.status.startswith(NOT_READY_TEXTS["draining"])
