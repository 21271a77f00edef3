"""The memory behind the block ids: one key and one value tensor a layer. Knows no sequences and no reference counts."""

from collections.abc import Sequence
from typing import Protocol

import torch

from attendant_engine.attention.base import LayerCache
from attendant_engine.attention.registry import cache_block_shape
from attendant_engine.config import ModelConfig
from attendant_engine.host_memory import zeros


class CachePeers(Protocol):
    """Other ranks, whose caches hold the other heads of the same blocks."""

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Have them copy blocks ``(source, destination)``."""
        ...

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Have them overwrite blocks with zeros."""
        ...


class CacheTensors:
    """Keys and values of every layer, ``[B, ...]`` each with blocks as the attention backend wants them, all zero at first.

    ``model`` is the share of a rank where there are several; ``peers`` then hear of every copy and every zeroing.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        attention_backend: str = "torch",
        peers: CachePeers | None = None,
    ) -> None:
        block = cache_block_shape(
            attention_backend, block_size=block_size, num_kv_heads=model.num_kv_heads, head_dim=model.head_dim, dtype=dtype
        )
        shape = (num_blocks, *block)
        # Zeros, not empty: a masked position is multiplied by 0, and 0 times a stray NaN is NaN. On a CPU a large cache takes
        # memory as it fills.
        self.layers = tuple(LayerCache(zeros(shape, dtype, device), zeros(shape, dtype, device)) for _ in range(model.num_layers))
        self._device = device
        self._peers = peers

    @property
    def num_bytes(self) -> int:
        """Memory of all layers together."""
        return sum(layer.key.nbytes + layer.value.nbytes for layer in self.layers)

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks ``(source, destination)`` in every layer; all are read before any is written."""
        if not copies:
            return
        if self._peers is not None:
            self._peers.copy_blocks(copies)
        sources = torch.tensor([source for source, _ in copies], device=self._device)
        destinations = torch.tensor([destination for _, destination in copies], device=self._device)
        for layer in self.layers:
            layer.key[destinations] = layer.key[sources]
            layer.value[destinations] = layer.value[sources]

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Overwrite blocks that may contain non-finite values, so that no later holder can meet them."""
        if not block_ids:
            return
        if self._peers is not None:
            self._peers.zero_blocks(block_ids)
        ids = torch.tensor(block_ids, device=self._device)
        for layer in self.layers:
            layer.key[ids] = 0
            layer.value[ids] = 0
