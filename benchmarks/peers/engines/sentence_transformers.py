"""sentence-transformers on token ids: transformer, pooling and norm, without the tokenizer."""

from typing import Any

import torch

from benchmarks.peers.engines.base import Setup
from benchmarks.peers.engines.transformers_decoder import torch_dtype


class SentenceTransformers:
    """One model."""

    def __init__(self, setup: Setup) -> None:
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(setup.num_threads)
        self._model = SentenceTransformer(str(setup.path), device="cpu", model_kwargs={"dtype": torch_dtype(setup)}).eval()

    @torch.inference_mode()
    def encode(self, batch: list[list[int]]) -> Any:
        """Return vectors ``[texts, width]``."""
        ids = torch.tensor(batch)
        features: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        return self._model(features)["sentence_embedding"].float()


def load(setup: Setup) -> SentenceTransformers:
    """Load the model."""
    return SentenceTransformers(setup)
