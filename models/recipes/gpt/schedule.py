"""The learning rate's course: warm-up, stable, then a linear fall to zero that may begin at any time.

"Warmup-stable-decay" of Hu et al. 2024 (MiniCPM): nothing before the fall depends on how long training will be, so a run
can be cut when time is up and still end well. A run that has ended can learn more from a lower rate, which falls again
(re-warming and re-decaying, Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language Models").
"""

from dataclasses import dataclass

DECAY_SHARE = 0.2
"""Of all tokens, those of the fall."""
REWARMED = 0.4
"""Of the peak rate, where a later fall begins: high enough to learn, low enough to keep what the first one brought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """A fall of the learning rate, in tokens of training, from ``first`` times the peak rate to zero."""

    start_tokens: int
    num_tokens: int
    first: float = 1.0

    @classmethod
    def from_here(cls, num_tokens: int) -> "Decay":
        """Begin the fall now, sized to be ``DECAY_SHARE`` of the whole."""
        return cls(start_tokens=num_tokens, num_tokens=max(1, round(num_tokens * DECAY_SHARE / (1 - DECAY_SHARE))))

    @property
    def end_tokens(self) -> int:
        """Tokens of training when the learning rate reaches zero."""
        return self.start_tokens + self.num_tokens

    def is_over(self, num_tokens: int) -> bool:
        """Return whether the learning rate has reached zero."""
        return num_tokens >= self.end_tokens

    def factor(self, num_tokens: int) -> float:
        """Return the share of the peak rate that is left, from ``first`` to 0."""
        return self.first * max(0.0, 1.0 - (num_tokens - self.start_tokens) / self.num_tokens)


def rate_factor(num_tokens: int, *, warmup_tokens: int, decay: Decay | None) -> float:
    """Return what to multiply the peak learning rate with after ``num_tokens``."""
    warm = min(1.0, (num_tokens + 1) / warmup_tokens) if warmup_tokens else 1.0
    return warm if decay is None else min(warm, decay.factor(num_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train: seconds of work, tokens, or whichever comes first."""

    seconds: float | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.num_tokens is None:
            raise ValueError("training needs a budget: give --hours or --tokens")

    def used_share(self, *, seconds: float, num_tokens: int) -> float:
        """Return the used share of the budget, of the part that runs out first; the fall begins at ``1 - DECAY_SHARE``."""
        by_time = seconds / self.seconds if self.seconds else 0.0
        by_tokens = num_tokens / self.num_tokens if self.num_tokens else 0.0
        return max(by_time, by_tokens)
