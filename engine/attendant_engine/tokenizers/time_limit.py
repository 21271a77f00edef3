"""Ends Python code of the current thread that has used too much processor time, loops without end included.

Works by the interpreter's trace hook, which fires on every line and call of this thread: no other process, no signal, and
other threads never notice. Code inside one C call is not interrupted; what builds such calls has to be bounded otherwise.
"""

import sys
import time
from types import FrameType, TracebackType
from typing import Any

_EVENTS_PER_LOOK = 64
"""Trace events between two looks at the clock."""


class TimeLimitExceeded(BaseException):
    """Raised inside the limited code; no ``except Exception`` there can catch it."""


class TimeLimit:
    """``with TimeLimit(1.0):`` raises ``TimeLimitExceeded`` once this thread used that many seconds of processor time."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadline_s = 0.0
        self._num_events = 0
        self._previous: Any = None

    def __enter__(self) -> "TimeLimit":
        self._deadline_s = time.thread_time() + self._limit_s
        self._previous = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        sys.settrace(self._previous)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._num_events += 1
        if self._num_events % _EVENTS_PER_LOOK == 0 and time.thread_time() > self._deadline_s:
            raise TimeLimitExceeded
        return self._trace
