"""Finds stop texts in a text that arrives piece by piece, and never lets out what may still become one.

Of several stop texts the one whose last character comes first wins, and of those the longest: what a reader of single
characters would have seen, so that the cut does not depend on how the text was split into pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Matched:
    """``text`` may be shown; ``stop_text`` is the one that ended it, None while none has."""

    text: str
    stop_text: str | None = None


class StopMatcher:
    """Watches for ``stop_texts``; holds back at most the longest of them less one character."""

    def __init__(self, stop_texts: Sequence[str]) -> None:
        # Longest first, so that the first of equal ends is the longest.
        self._stop_texts = tuple(sorted(set(stop_texts), key=len, reverse=True))
        self._max_held = max((len(stop) for stop in self._stop_texts), default=1) - 1
        self._held = ""

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to watch for."""
        return bool(self._stop_texts)

    def push(self, piece: str) -> Matched:
        """Take a piece of text; return what may be shown now and whether a stop text is complete."""
        if not self._stop_texts:
            return Matched(piece)
        text = self._held + piece
        best_end, best = len(text) + 1, ""
        for stop in self._stop_texts:
            at = text.find(stop)
            if at >= 0 and at + len(stop) < best_end:
                best_end, best = at + len(stop), stop
        if best:
            self._held = ""
            return Matched(text[: best_end - len(best)], best)
        num_held = self._num_to_hold(text)
        self._held = text[len(text) - num_held :]
        return Matched(text[: len(text) - num_held])

    def finish(self) -> str:
        """Return what was held back; no more text comes."""
        held, self._held = self._held, ""
        return held

    def _num_to_hold(self, text: str) -> int:
        """Length of the longest end of ``text`` that is the beginning of a stop text."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stop_texts if len(stop) > length):
                return length
        return 0
