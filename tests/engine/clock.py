"""A clock that stands still until it is moved, in place of ``time.monotonic``."""

import time

import pytest


class Clock:
    """Says ``now_s``."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    @classmethod
    def replace(cls, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        """Put a new clock in place of the machine's for one test."""
        clock = cls()
        monkeypatch.setattr(time, "monotonic", clock)
        return clock
