"""The seeds of a call: drawn here where the caller names none, so that the receipt's one seed fixes the whole answer."""

import secrets
from collections import Counter
from collections.abc import Hashable, Sequence

_SEED_SPAN = 2**64
_MIN_SEED = -(2**63)


def draw_seed() -> int:
    """Return a seed that nobody could have guessed."""
    return secrets.randbits(63)


def seeds_of(inputs: Sequence[Hashable], seed: int) -> tuple[int, ...]:
    """Return a seed for each input: ``seed``, and the ones after it for an input that was there before.

    A distinct prompt thus gets the tokens that it would get alone, and one that is repeated to be sampled again gets others.
    """
    num_seen: Counter[Hashable] = Counter()
    seeds: list[int] = []
    for each in inputs:
        seeds.append((seed + num_seen[each] - _MIN_SEED) % _SEED_SPAN + _MIN_SEED)
        num_seen[each] += 1
    return tuple(seeds)
