"""Which source a window comes from: simple text first and harder text later; of what is made up, one thing at a time.

What a model needs to learn a task from examples comes in steps, each of which a thousand steps of everything at once did not
bring, and a few hundred did once many windows asked for it: to look up what followed last time (echoes), to tell from the
examples which of two rules holds (lists), to know words by their letters (words).
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

EPISODES, LIST_EPISODES, WORD_EPISODES = "episodes", "list episodes", "word episodes"
ECHOES = "echoes"

_SIMPLE = {"pd_children_stories": 0.45, "pd_fiction_tier1": 0.35, "tatoeba_english_sentences": 0.13, "ccby_children_stories": 0.07}
_WIDER = {
    "pd_children_stories": 0.34,
    "pd_fiction_tier1": 0.25,
    "pd_fiction_tier2": 0.29,
    "tatoeba_english_sentences": 0.08,
    "ccby_children_stories": 0.04,
}
_ALL = {
    "pd_children_stories": 0.25,
    "pd_fiction_tier1": 0.18,
    "pd_fiction_tier2": 0.19,
    "pd_fiction_tier3": 0.21,
    "pd_fiction_tier4": 0.09,
    "tatoeba_english_sentences": 0.05,
    "ccby_children_stories": 0.03,
}
_LAST = {
    "pd_children_stories": 0.34,
    "pd_fiction_tier1": 0.20,
    "pd_fiction_tier2": 0.16,
    "pd_fiction_tier3": 0.14,
    "pd_fiction_tier4": 0.05,
    "tatoeba_english_sentences": 0.04,
    "ccby_children_stories": 0.07,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How often each source is drawn; the shares sum to one."""

    shares: Mapping[str, float]


def _mix(text: Mapping[str, float], made: Mapping[str, float]) -> Mixture:
    text_share = 1 - sum(made.values())
    return Mixture(shares={**{source: share * text_share for source, share in text.items()}, **made})


_STAGES = (
    (0, _mix(_SIMPLE, {EPISODES: 0.25, ECHOES: 0.15})),
    (2_000_000, _mix(_SIMPLE, {LIST_EPISODES: 0.60, ECHOES: 0.05})),
    (5_000_000, _mix(_WIDER, {WORD_EPISODES: 0.60, ECHOES: 0.05})),
    (8_000_000, _mix(_ALL, {EPISODES: 0.55, ECHOES: 0.05})),
)
"""Tokens of training from which on each holds."""
_AT_THE_END = _mix(_LAST, {EPISODES: 0.36, WORD_EPISODES: 0.13, ECHOES: 0.03})


def mixture_at(num_tokens: int, *, is_decaying: bool) -> Mixture:
    """Return the mixture after ``num_tokens`` of training; while the learning rate falls, the text that the model is for."""
    return _AT_THE_END if is_decaying else _STAGES[bisect_right(_STAGES, num_tokens, key=lambda stage: stage[0]) - 1][1]
