"""Windows of passages that come again: what teaches a model to look up what followed last time.

Attention heads that do so ("induction heads", Olsson et al. 2022, "In-context learning and induction heads") are what answers
from examples are built on. Episodes alone ask for them too rarely: after a thousand steps of text and episodes there were
none, and within fifty steps of echoes there were.
"""

from random import Random

import numpy as np

from models.recipes.gpt.corpus import Tokens
from models.recipes.gpt.episodes import Window

MIN_LENGTH, MAX_LENGTH = 6, 80
MAX_TIMES = 3
RANDOM_SHARE = 0.5
"""Of the passages, those of random tokens; the others are cut from text."""
RANDOM_WEIGHT = 0.05
"""Of random tokens when they come first: nobody can know them."""


class EchoSource:
    """Makes windows of passages, each two or three times in a row."""

    def __init__(self, text: Tokens, *, vocab_size: int, seed: int) -> None:
        if len(text) <= MAX_LENGTH:
            raise ValueError(f"the text has {len(text)} tokens, too few for passages of up to {MAX_LENGTH}")
        self._text = text
        self._vocab_size = vocab_size
        self._seed = seed

    def window(self, number: int, length: int) -> Window:
        """Return window ``number`` of ``length`` tokens: a function of the seed and ``number`` alone."""
        rng = Random(f"{self._seed}/echo/{number}")
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            size = rng.randint(MIN_LENGTH, MAX_LENGTH)
            is_random = rng.random() < RANDOM_SHARE
            if is_random:
                passage = [rng.randrange(self._vocab_size) for _ in range(size)]
            else:
                start = rng.randrange(len(self._text) - size)
                passage = self._text[start : start + size].tolist()
            times = rng.randint(2, MAX_TIMES)
            ids += passage * times
            weights += [RANDOM_WEIGHT if is_random else 1.0] * size + [1.0] * (size * (times - 1))
        return Window(token_ids=np.array(ids[:length], dtype=np.uint16), weights=np.array(weights[:length], dtype=np.float32))
