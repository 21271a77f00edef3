"""Guesses what a text says next by what followed its last tokens before: an n-gram model of the one sequence itself.

Shannon's 1951 guessing of English by the letters just read, over tokens, with the longest context first (n = 3, then 2)
and the latest occurrence as the only evidence. Knows no probabilities; what a guess is worth is ``speculation``'s.
"""

from collections.abc import Sequence

_TOKEN_BITS = 24  # a larger vocabulary only makes contexts collide, and a wrong guess costs no more than that


class NgramTable:
    """Where each context of two and of three tokens last occurred in one growing list of token ids."""

    __slots__ = ("_num_indexed", "_pair_to_next", "_triple_to_next")

    def __init__(self) -> None:
        self._pair_to_next: dict[int, int] = {}
        self._triple_to_next: dict[int, int] = {}
        self._num_indexed = 2

    def propose(self, token_ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        """Return up to ``max_tokens`` ids that may follow ``token_ids``, which begins with what it was at the last call.

        A continuation that runs into the end of the text goes on as if the guesses were written: a text that repeats
        itself is guessed as far as asked.
        """
        self._index(token_ids)
        num_tokens = len(token_ids)
        if num_tokens < 2:
            return ()
        pair = token_ids[-2] << _TOKEN_BITS | token_ids[-1]
        start = None
        if num_tokens > 2:
            start = self._triple_to_next.get(token_ids[-3] << 2 * _TOKEN_BITS | pair)
        if start is None:
            start = self._pair_to_next.get(pair)
        if start is None:
            return ()
        guesses = list(token_ids[start : start + max_tokens])
        while len(guesses) < max_tokens:
            guesses.append(guesses[len(guesses) - (num_tokens - start)])
        return tuple(guesses)

    def _index(self, token_ids: Sequence[int]) -> None:
        """Take in every context that something follows, so not yet the last one."""
        pair_to_next, triple_to_next = self._pair_to_next, self._triple_to_next
        for end in range(self._num_indexed, len(token_ids)):
            pair = token_ids[end - 2] << _TOKEN_BITS | token_ids[end - 1]
            pair_to_next[pair] = end
            if end > 2:
                triple_to_next[token_ids[end - 3] << 2 * _TOKEN_BITS | pair] = end
        self._num_indexed = max(self._num_indexed, len(token_ids))
