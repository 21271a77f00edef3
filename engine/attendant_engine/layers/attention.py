"""Multi-head attention between a layer's projections and the backend that the engine chose."""

import torch

from attendant_engine.attention.base import AttentionBackend, AttentionMetadata, LayerCache


class Attention:
    """Splits packed projections into heads, attends, and joins them again. Holds no weights.

    ``scale`` multiplies the scores; the usual one is ``head_dim ** -0.5``.
    """

    def __init__(self, backend: AttentionBackend, *, num_heads: int, num_kv_heads: int, head_dim: int, scale: float) -> None:
        self.backend = backend
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.scale = scale

    def split_queries(self, q: torch.Tensor) -> torch.Tensor:
        """``[T, H * D]`` to ``[T, H, D]``."""
        return q.view(-1, self.num_heads, self.head_dim)

    def split_keys(self, k: torch.Tensor) -> torch.Tensor:
        """``[T, K * D]`` to ``[T, K, D]``; values too."""
        return k.view(-1, self.num_kv_heads, self.head_dim)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata
    ) -> torch.Tensor:
        """``[T, H, D]``, ``[T, K, D]``, ``[T, K, D]`` to ``[T, H * D]``."""
        return self.backend.forward(q, k, v, cache, metadata, scale=self.scale).flatten(1)
