"""N-gram models of tokens, to be compared with: interpolated Kneser-Ney (Chen and Goodman 1999), one discount an order.

Everything is counted by sorting, so the text may be tens of millions of tokens. A context that was never seen gives way
to the one that is a token shorter, down to single tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """How often each n-gram of an order counts, with the sums over what may follow its context, by the context's id."""

    values: Floats
    context_total: Floats
    context_types: Floats
    discount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """The n-grams of one order: ``keys`` sorted, each the id of its first n-1 tokens times the vocabulary plus its last."""

    keys: Ids
    as_highest: _Counts
    as_lower: _Counts | None


class NgramModel:
    """Counts of a text up to an order; any order up to that may be asked."""

    def __init__(self, tokens: NDArray[np.uint16], *, vocab_size: int, max_order: int) -> None:
        """Count ``tokens`` ``[N]``, documents end to end with a mark between them."""
        self._vocab_size = vocab_size
        self._orders: list[_Order] = []
        counted = [_count(tokens, None, vocab_size)]
        for _ in range(1, max_order):
            counted.append(_count(tokens, counted[-1].ids, vocab_size))
        for at, grams in enumerate(counted):
            num_contexts = len(counted[at - 1].keys) if at else 1
            highest = _sums(grams.counts.astype(np.float64), grams.keys, num_contexts, vocab_size)
            lower = None
            if at + 1 < max_order:
                # In how many contexts the n-gram was seen, which is what a lower order is for.
                longer = counted[at + 1]
                seen_after = np.bincount(grams.ids[longer.first_places], minlength=len(grams.keys)).astype(np.float64)
                lower = _sums(seen_after, grams.keys, num_contexts, vocab_size)
            self._orders.append(_Order(keys=grams.keys, as_highest=highest, as_lower=lower))

    def bits(self, document: Sequence[int], *, order: int, begin: int) -> Floats:
        """Return the bits of each token of a document ``[N]``, before which stands the token ``begin``."""
        history = order - 1
        tokens = np.array([begin] * history + list(document), dtype=np.int64)
        probabilities = np.full(len(tokens), 1.0 / self._vocab_size)
        context = np.zeros(len(tokens), dtype=np.int64)
        for at in range(order):
            grams = self._orders[at]
            counts = grams.as_highest if at == order - 1 else grams.as_lower
            assert counts is not None, "an order above the highest was asked"
            keys = np.where(context >= 0, context * self._vocab_size + tokens, -1)
            ids = _find(grams.keys, keys)
            probabilities = _interpolate(counts, context, ids, probabilities)
            context = np.concatenate([[-1], ids[:-1]])
        result: Floats = -np.log2(probabilities[history:])
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grams:
    keys: Ids
    ids: Ids
    counts: Ids
    first_places: Ids


def _count(tokens: NDArray[np.uint16], shorter_ids: Ids | None, vocab_size: int) -> _Grams:
    """Count n-grams; ``shorter_ids`` are those of the n-grams one shorter by the place where they end."""
    keys = tokens.astype(np.int64)
    if shorter_ids is not None:
        # The first token has no predecessor; it is taken to follow the last, which one n-gram of millions does not mind.
        keys += np.roll(shorter_ids, 1) * vocab_size
    unique, first_places, ids, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return _Grams(keys=unique, ids=ids, counts=counts, first_places=first_places)


def _sums(values: Floats, keys: Ids, num_contexts: int, vocab_size: int) -> _Counts:
    contexts = keys // vocab_size
    ones, twos = float((values == 1).sum()), float((values == 2).sum())
    return _Counts(
        values=values,
        context_total=np.bincount(contexts, weights=values, minlength=num_contexts).astype(np.float64),
        context_types=np.bincount(contexts[values > 0], minlength=num_contexts).astype(np.float64),
        discount=ones / (ones + 2 * twos) if ones else 0.5,
    )


def _find(keys: Ids, wanted: Ids) -> Ids:
    """Return the place of each key, -1 where it is none of ``keys``."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)


def _interpolate(counts: _Counts, context: Ids, ids: Ids, shorter: Floats) -> Floats:
    """Mix the discounted share of each n-gram in its context with the probability by the shorter context."""
    is_known = context >= 0
    safe_context = np.where(is_known, context, 0)
    total = counts.context_total[safe_context]
    is_known &= total > 0
    total = np.where(is_known, total, 1.0)
    seen = np.where(ids >= 0, np.maximum(counts.values[np.maximum(ids, 0)] - counts.discount, 0.0), 0.0)
    left = counts.discount * counts.context_types[safe_context]
    mixed: Floats = np.where(is_known, (seen + left * shorter) / total, shorter)
    return mixed
