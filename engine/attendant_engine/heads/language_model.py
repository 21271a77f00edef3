"""The language-model head: hidden states to next-token logits, by the token embeddings or by weights of its own."""

import torch
from torch import nn

from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Linear


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
    """Shares the trunk's token embeddings (Press and Wolf 2017), so it has no weights of its own."""

    def __init__(self, token_embedding: Embedding) -> None:
        self._token_embedding = token_embedding

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[N, E]`` to raw logits ``[N, V]`` float32."""
        return nn.functional.linear(hidden, self._token_embedding.weight).float()
