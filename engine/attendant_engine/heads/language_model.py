"""The language-model head: hidden states to next-token logits, by the token embeddings or by weights of its own."""

import torch
from torch import nn

from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Linear
from attendant_engine.layers.packing import Product, pack


class LanguageModel(nn.Module):
    """``lm_head.weight`` ``[V, E]``, its own."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.lm_head = Linear(hidden_size, vocab_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[N, E]`` to raw logits ``[N, V]`` float32."""
        out: torch.Tensor = self.lm_head(hidden).float()
        return out


class TiedLanguageModel:
    """Shares the trunk's token embeddings (Press and Wolf 2017), so it has no parameters of its own."""

    def __init__(self, token_embedding: Embedding) -> None:
        self._token_embedding = token_embedding
        self._product: Product | None = None

    def pack(self) -> None:
        """Copy the embeddings into the fastest layout for a product; looking rows up still takes the original."""
        self._product = pack(self._token_embedding.weight)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[N, E]`` to raw logits ``[N, V]`` float32."""
        if self._product is None:
            return nn.functional.linear(hidden, self._token_embedding.weight).float()
        return self._product(hidden, None).float()
