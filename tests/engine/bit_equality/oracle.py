"""Knows the bits of every row seen so far by what it was computed from; the same row with other bits is a mismatch.

A hidden state of a decoder is a function of the tokens up to it, one of an encoder of its whole text, logits of a hidden
state. Nothing else may show: not the batch, the chunk, the cache, the threads. So no engine is compared with another;
all of them are compared with the one memory.
"""

import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from attendant_engine.models.base import LanguageModelHead, ModelInputs, Trunk
from attendant_engine.sequence import ScheduledStep

_MAX_WIDTH = 4096
# Odd, so that a row that differs in one element never has the same sum.
_WEIGHTS = np.random.default_rng(1951).integers(0, 2**63, _MAX_WIDTH, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_BITS = {4: torch.int32, 2: torch.int16, 8: torch.int64}


class BitOracle:
    """What every row must be. ``num_compared`` counts rows that were seen before, ``mismatches`` those that differed, by kind."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Hashable], int] = {}
        self.num_compared = 0
        self.mismatches: Counter[str] = Counter()

    def check(self, kind: str, keys: Sequence[Hashable], rows: torch.Tensor) -> None:
        """Compare ``rows`` ``[N, W]``, row i with whatever was seen as ``keys[i]`` before."""
        for key, bits in zip(keys, fingerprints(rows), strict=True):
            seen = self._seen.setdefault((kind, key), bits)
            if seen is bits:
                continue
            self.num_compared += 1
            if seen != bits:
                self.mismatches[kind] += 1


def fingerprints(rows: torch.Tensor) -> list[int]:
    """Return a 64-bit number for the bits of each row of ``[N, W]``."""
    bits = rows.detach().contiguous().view(_BITS[rows.element_size()]).numpy()
    words: npt.NDArray[np.uint64] = bits.astype(np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        sums = (words * _WEIGHTS[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    return cast(list[int], sums.tolist())


class Recorder:
    """Shows an oracle everything that one engine computes. ``step`` is the one being run."""

    def __init__(self, oracle: BitOracle) -> None:
        self._oracle = oracle
        self._chains: dict[tuple[str, int], list[int]] = {}
        self.step = ScheduledStep()

    def saw_hidden(self, inputs: ModelInputs, hidden: torch.Tensor) -> None:
        """Take the trunk's output for the current step."""
        bounds, token_ids = inputs.attention.cu_seqlens_q.tolist(), inputs.token_ids.tolist()
        chunks = [token_ids[first:last] for first, last in itertools.pairwise(bounds)]
        if self.step.pooled:
            types = [0] * len(token_ids) if inputs.token_type_ids is None else inputs.token_type_ids.tolist()
            texts = [hash((*chunk, *types[first : first + len(chunk)])) for chunk, first in zip(chunks, bounds, strict=False)]
            keys = [(text, row) for text, chunk in zip(texts, chunks, strict=True) for row in range(len(chunk))]
            self._oracle.check("hidden", keys, hidden)
            return
        prefixes: list[int] = []
        for item, chunk, first in zip(self.step.sequences, chunks, bounds, strict=False):
            start = int(inputs.positions[first])
            sequence = item.sequence
            key = self._chain((sequence.state.request_id, sequence.index), sequence.token_ids, start)
            for token_id in chunk:
                key = hash((key, token_id))
                prefixes.append(key)
        self._oracle.check("hidden", prefixes, hidden)

    def saw_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> None:
        """Take the head's output for rows of hidden states."""
        self._oracle.check("logits", fingerprints(hidden), logits)

    def _chain(self, sequence: tuple[str, int], token_ids: Sequence[int], length: int) -> int:
        """Return the key of the first ``length`` tokens of a sequence, whose tokens are only ever added to."""
        keys = self._chains.setdefault(sequence, [0])
        while len(keys) <= length:
            keys.append(hash((keys[-1], token_ids[len(keys) - 1])))
        return keys[length]


class RecordedTrunk:
    """A trunk that is watched."""

    def __init__(self, trunk: Trunk, recorder: Recorder) -> None:
        self._trunk = trunk
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trunk, name)

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Compute, and show."""
        hidden = self._trunk(inputs)
        self._recorder.saw_hidden(inputs, hidden)
        return hidden


class RecordedHead:
    """A language-model head that is watched."""

    def __init__(self, head: LanguageModelHead, recorder: Recorder) -> None:
        self._head = head
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Compute, and show."""
        logits = self._head(hidden) if row_ids is None else self._head(hidden, row_ids)
        self._recorder.saw_logits(hidden if row_ids is None else hidden[row_ids.long()], logits)
        return logits
