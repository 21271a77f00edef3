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

    def forward(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, E]``, or the rows ``row_ids`` ``[N]`` of it, to raw logits ``[N, V]`` float32."""
        out: torch.Tensor = self.lm_head(hidden if row_ids is None else hidden[row_ids]).float()
        return out


class TiedLanguageModel:
    """Shares the trunk's token embeddings (Press and Wolf 2017), so it has no parameters of its own."""

    def __init__(self, token_embedding: Embedding) -> None:
        self.token_embedding = token_embedding
        self._product: Product | None = None

    def pack(self) -> None:
        """Copy the embeddings into the fastest layout for a product; looking rows up still takes the original."""
        self._product = pack(self.token_embedding.weight, None)

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, E]``, or the rows ``row_ids`` ``[N]`` of it, to raw logits ``[N, V]`` float32."""
        if row_ids is not None:
            hidden = hidden[row_ids]
        if self._product is None:
            return nn.functional.linear(hidden, self.token_embedding.weight).float()
        return self._product(hidden).float()
