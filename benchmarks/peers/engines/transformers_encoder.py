"""transformers' BERT, eager; the mean and the norm are taken here."""

from typing import Any

import torch

from benchmarks.peers.engines.base import Setup
from benchmarks.peers.engines.transformers_decoder import torch_dtype


class TransformersEncoder:
    """One model."""

    def __init__(self, setup: Setup) -> None:
        from transformers import AutoModel

        torch.set_num_threads(setup.num_threads)
        model: Any = AutoModel.from_pretrained(setup.path, dtype=torch_dtype(setup))
        self._model = model.eval()

    @torch.inference_mode()
    def encode(self, batch: list[list[int]]) -> Any:
        """Return vectors ``[texts, width]``; the texts are equally long."""
        ids = torch.tensor(batch)
        hidden = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return torch.nn.functional.normalize(hidden.float().mean(dim=1), dim=-1)


def load(setup: Setup) -> TransformersEncoder:
    """Load the model."""
    return TransformersEncoder(setup)
