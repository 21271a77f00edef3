"""Rows looked up by id: token, position and segment embeddings."""

import torch
from torch import nn
from torch.nn.functional import embedding


class Embedding(nn.Module):
    """``weight`` ``[num, size]``, uninitialised for a loader to fill."""

    def __init__(self, num_embeddings: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, size), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ``[*, size]`` for int64 ids ``[*]``, which must be inside the table."""
        return embedding(ids, self.weight)
