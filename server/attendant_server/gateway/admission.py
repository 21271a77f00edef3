"""Who may begin: a bounded number of permits a model, taken before any tokenising, and each call's last moment.

A refused call costs nothing but its refusal. Times are seconds on ``time.monotonic``'s clock, which is also asyncio's.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

from attendant_engine.types import EngineRequest
from attendant_server.errors import ServingError

RETRY_AFTER_S = 1.0
"""When a refused caller may come back while nobody knows how fast permits return."""

_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 60.0
_NEW = 0.1  # weight of the newest interval between two permits that came back, in their mean

T = TypeVar("T")


class Admission:
    """The permits of one model; a permit is held from before tokenising until the call has ended.

    A tenant that holds less than its share gets one though others hold them all, so at most twice as many are out.
    """

    def __init__(self, model: str, *, max_queue: int) -> None:
        self._model = model
        self._max_queue = max_queue
        self._num_held = 0
        self._num_held_by: Counter[str] = Counter()
        self._weights: dict[str, float] = {}
        self._returned_s: float | None = None
        self._return_interval_s: float | None = None

    @property
    def num_held(self) -> int:
        """Calls that are in."""
        return self._num_held

    def take(self, tenant: str = "", weight: float = 1.0) -> "Permit":
        """Return a permit. Raises ``ServingError`` queue_full when all are out."""
        if self._num_held >= self._max_queue:
            others = sum(self._weights[other] for other in self._num_held_by if other != tenant)
            if self._num_held_by[tenant] >= self._max_queue * weight / (weight + others):
                raise ServingError(
                    "queue_full",
                    f"model '{self._model}' has {self._num_held} requests in hand and takes at most {self._max_queue}; "
                    "try again in a moment",
                    retry_after_s=self._retry_after_s(),
                )
        self._num_held += 1
        self._num_held_by[tenant] += 1
        self._weights[tenant] = weight
        return Permit(self, tenant)

    def _retry_after_s(self) -> float:
        """Estimate when enough permits are back for those who were refused: a tenth of what is out."""
        if self._return_interval_s is None:
            return RETRY_AFTER_S
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, self._return_interval_s * max(1.0, self._max_queue / 10)))

    def _give_back(self, tenant: str) -> None:
        assert self._num_held_by[tenant] > 0, "a permit was given back twice"
        now_s = time.monotonic()
        if self._num_held >= self._max_queue and self._returned_s is not None:
            interval_s, before_s = now_s - self._returned_s, self._return_interval_s
            self._return_interval_s = interval_s if before_s is None else before_s + _NEW * (interval_s - before_s)
        self._returned_s = now_s
        self._num_held -= 1
        self._num_held_by[tenant] -= 1
        if not self._num_held_by[tenant]:
            del self._num_held_by[tenant], self._weights[tenant]


class Permit:
    """One admitted call's place."""

    __slots__ = ("_admission", "_tenant")

    def __init__(self, admission: Admission, tenant: str) -> None:
        self._admission: Admission | None = admission
        self._tenant = tenant

    def release(self) -> None:
        """Give the place to the next caller; calling it again does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self._tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms engines work for a call: until when (``time.monotonic``'s clock), and for whom with what weight."""

    deadline_s: float | None = None
    tenant: str = ""
    tenant_weight: float = 1.0

    def apply(self, request: EngineRequest) -> EngineRequest:
        """Return the request on these terms."""
        return replace(request, deadline_s=self.deadline_s, tenant=self.tenant, tenant_weight=self.tenant_weight)


class Deadline:
    """The moment by which a call must be answered: the caller's own or the server's, whichever is sooner."""

    __slots__ = ("_at_s", "_is_callers", "_started_s")

    def __init__(self, *, callers_s: float | None, request_timeout_s: float) -> None:
        self._started_s = time.monotonic()
        servers_s = self._started_s + request_timeout_s
        self._is_callers = callers_s is not None and callers_s <= servers_s
        self._at_s = callers_s if callers_s is not None and callers_s <= servers_s else servers_s

    @property
    def at_s(self) -> float:
        """The moment itself."""
        return self._at_s

    def check(self) -> None:
        """Raise ``ServingError`` deadline_exceeded when it has passed."""
        if time.monotonic() >= self._at_s:
            raise self.error()

    def error(self) -> ServingError:
        """Return the error that says whose deadline it was and how long it left."""
        left_s = max(0.0, self._at_s - self._started_s)
        whose = "the request's deadline" if self._is_callers else "this server's limit for a request"
        fix = "allow more time" if self._is_callers else "ask for fewer tokens"
        return ServingError("deadline_exceeded", f"the answer was not ready after {left_s:.3g} s, {whose}; {fix} or stream the answer")

    async def guard(self, work: Awaitable[T]) -> T:
        """Await ``work``; cancel it and raise deadline_exceeded when the moment comes first."""
        try:
            async with asyncio.timeout_at(self._at_s) as scope:
                return await work
        except TimeoutError:
            if scope.expired():
                raise self.error() from None
            raise
