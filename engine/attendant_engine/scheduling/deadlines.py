"""The moments by which requests are to be answered, soonest first.

Entries of requests that have ended meanwhile stay until they are due or outnumber the live ones. Knows no queues and no
blocks.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import count

from attendant_engine.errors import DeadlineError
from attendant_engine.sequence import GenerationState, PoolingState
from attendant_engine.types import OutputError

DEADLINE_PASSED = OutputError(
    code=DeadlineError.code, message="The answer was not ready by the request's deadline; allow more time or ask for fewer tokens."
)
"""What a request ends with that is stopped at its deadline."""

CANNOT_BE_MET = OutputError(
    code=DeadlineError.code, message="The request's turn came too late for its deadline; allow more time, or try again when less waits."
)
"""What a request ends with that could not be done in time any more when its turn came."""

_NUM_STALE = 64  # entries of requests that have ended, beyond as many as there are live ones, before a clean-up

_State = GenerationState | PoolingState


class Deadlines:
    """Requests by deadline, on ``time.monotonic``'s clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _State]] = []
        self._ties = count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, state: _State) -> None:
        """Remember a request's deadline, if it has one."""
        deadline_s = state.request.deadline_s
        if deadline_s is not None:
            heappush(self._heap, (deadline_s, next(self._ties), state))

    def pop_due(self, now_s: float, live: Mapping[str, _State]) -> list[_State]:
        """Take out and return those of ``live`` (by request id) whose deadline has passed by ``now_s``."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            state = heappop(self._heap)[2]
            if live.get(state.request_id) is state:
                due.append(state)
        if len(self._heap) > 2 * len(live) + _NUM_STALE:
            self._heap = [entry for entry in self._heap if live.get(entry[2].request_id) is entry[2]]
            heapify(self._heap)
        return due
