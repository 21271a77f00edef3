"""Which source a window comes from: simple text first, harder text as training goes on, episodes and echoes throughout."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

EPISODES = "episodes"
ECHOES = "echoes"
EPISODE_SHARE = 0.55

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
_STARTS = (0, 4_000_000, 10_000_000)
_STAGES = (_SIMPLE, _WIDER, _ALL)
_ECHO_SHARES = (0.15, 0.05, 0.05)
"""Looking up what followed last time is learned once, within half a million tokens, and kept with little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How often each source is drawn; the shares sum to one."""

    shares: Mapping[str, float]


def mixture_at(num_tokens: int, *, is_decaying: bool) -> Mixture:
    """Return the mixture after ``num_tokens`` of training; while the learning rate falls, the text that the model is for."""
    stage = bisect_right(_STARTS, num_tokens) - 1
    text = _LAST if is_decaying else _STAGES[stage]
    made = {EPISODES: EPISODE_SHARE, ECHOES: _ECHO_SHARES[stage]}
    text_share = 1 - sum(made.values())
    return Mixture(shares={**{source: share * text_share for source, share in text.items()}, **made})
