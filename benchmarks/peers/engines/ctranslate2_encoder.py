"""CTranslate2 on a sentence encoder: it returns hidden states, their mean is taken with numpy."""

from typing import Any

import ctranslate2
import numpy as np

from benchmarks.peers.engines.base import Setup
from benchmarks.peers.engines.ctranslate2_decoder import compute_type


class Ctranslate2Encoder:
    """One encoder on one worker."""

    def __init__(self, setup: Setup) -> None:
        self._encoder = ctranslate2.Encoder(
            str(setup.path), device="cpu", compute_type=compute_type(setup), inter_threads=1, intra_threads=setup.num_threads
        )

    def encode(self, batch: list[list[int]]) -> Any:
        """Return vectors ``[texts, width]``; the texts are equally long."""
        means = np.array(self._encoder.forward_batch(batch).last_hidden_state).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def load(setup: Setup) -> Ctranslate2Encoder:
    """Load the model."""
    return Ctranslate2Encoder(setup)
