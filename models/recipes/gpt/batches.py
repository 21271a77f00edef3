"""Batches of training: windows drawn from a mixture of sources, each source read once before it is read again.

What comes next depends on the seed, the step and one counter a source alone, so a run that resumes goes on as if it had
never stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from models.recipes.gpt.corpus import Tokens
from models.recipes.gpt.episodes import Window
from models.recipes.gpt.mixture import Mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows to learn from: ``token_ids``, ``targets`` (int64) and ``weights`` (float32), all ``[B, T]``."""

    token_ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


class WindowSource(Protocol):
    """Makes windows up."""

    def window(self, number: int, length: int) -> Window:
        """Return window ``number`` of ``length`` tokens."""


class TextSource:
    """One source's tokens, cut into windows that come in another order and from another start in every epoch."""

    def __init__(self, tokens: Tokens, *, window: int, seed: int, name: str) -> None:
        self._tokens = tokens
        self._window = window
        self._seed = [seed, *name.encode()]
        # One window is lost to the shifted start, and one token to the target of the last.
        self._num_windows = (len(tokens) - 1) // window - 1
        if self._num_windows < 1:
            raise ValueError(f"{name} has {len(tokens)} tokens, too few for windows of {window}")
        self._order: tuple[int, int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None

    def window(self, number: int) -> Tokens:
        """Return the ``number``-th window ever drawn: ``window + 1`` token ids."""
        epoch, place = divmod(number, self._num_windows)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([*self._seed, epoch])
            self._order = epoch, int(rng.integers(self._window)), rng.permutation(self._num_windows)
        _, shift, order = self._order
        start = shift + int(order[place]) * self._window
        return self._tokens[start : start + self._window + 1]


class BatchSource:
    """Draws batches; ``counts`` says how many windows of each source are behind, and is what a checkpoint keeps."""

    def __init__(
        self,
        texts: Mapping[str, TextSource],
        made: Mapping[str, WindowSource],
        *,
        window: int,
        seed: int,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """``texts`` are read, ``made`` are made up; the names of both are those of a mixture."""
        self._texts = texts
        self._made = made
        self._window = window
        self._seed = seed
        self.counts = dict(counts or {})

    def draw(self, step: int, num_windows: int, mixture: Mixture) -> Batch:
        """Return the batch of a step and move the counters on."""
        rng = np.random.default_rng([self._seed, step])
        names = sorted(mixture.shares)
        drawn = rng.choice(len(names), size=num_windows, p=[mixture.shares[name] for name in names])
        ids = np.empty((num_windows, self._window + 1), dtype=np.int64)
        weights = np.ones((num_windows, self._window + 1), dtype=np.float32)
        for row, at in enumerate(drawn):
            name = names[at]
            number = self.counts.get(name, 0)
            self.counts[name] = number + 1
            if name in self._made:
                window = self._made[name].window(number, self._window + 1)
                ids[row], weights[row] = window.token_ids, window.weights
            else:
                ids[row] = self._texts[name].window(number)
        tokens = torch.from_numpy(ids)
        return Batch(token_ids=tokens[:, :-1], targets=tokens[:, 1:], weights=torch.from_numpy(weights)[:, 1:])
