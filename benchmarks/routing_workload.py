"""A few-shot workload: prompts of a few sets of examples and a query each, the sets drawn by Zipf's law.

Tokens are drawn at random, for a router sees token ids alone.
"""

import itertools
import random
from dataclasses import dataclass

from attendant_engine.prefix_names import prefix_keys

BLOCK_SIZE = 16
_VOCAB_SIZE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Prompts in their order of arrival."""

    prompts: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    def num_reusable_tokens(self) -> int:
        """Return how many tokens one replica with an endless cache, serving one prompt after another, would not compute again."""
        seen: set[int] = set()
        num_blocks = 0
        for prompt in self.prompts:
            keys = prefix_keys("", prompt, BLOCK_SIZE)
            num_blocks += next((place for place, key in enumerate(keys) if key not in seen), len(keys))
            seen.update(keys)
        return num_blocks * BLOCK_SIZE


class FewShotSets:
    """Draws prompts of ``num_sets`` sets, the k-th with a weight of ``k ** -exponent``, without end."""

    def __init__(self, *, num_sets: int, set_tokens: int, query_tokens: int, exponent: float = 1.0, seed: int = 0) -> None:
        self._draws = random.Random(seed)
        self._query_tokens = query_tokens
        self._sets = [self._tokens(set_tokens) for _ in range(num_sets)]
        self._weights = list(itertools.accumulate((place + 1) ** -exponent for place in range(num_sets)))

    def draw(self) -> tuple[int, ...]:
        """Return the next prompt."""
        (examples,) = self._draws.choices(self._sets, cum_weights=self._weights)
        return (*examples, *self._tokens(self._query_tokens))

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._draws.choices(range(_VOCAB_SIZE), k=count))


def few_shot(*, num_sets: int, num_requests: int, set_tokens: int, query_tokens: int) -> Workload:
    """Draw a workload."""
    sets = FewShotSets(num_sets=num_sets, set_tokens=set_tokens, query_tokens=query_tokens)
    return Workload(prompts=tuple(sets.draw() for _ in range(num_requests)))
