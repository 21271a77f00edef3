"""The attention interface: packed queries, one metadata object, optionally a paged cache.

A backend sees tensors and ``AttentionMetadata``, never a sequence or a request. Causal, bidirectional, windowed and
cached attention are properties of the metadata, not code paths of a model.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMetadata:
    """Which query token may look at which key, for one packed step.

    ``cu_seqlens_q``  ``[S + 1]`` int32: sequence s owns the packed rows ``cu_seqlens_q[s]:cu_seqlens_q[s + 1]``.
    ``seq_lens``      ``[S]`` int32: keys of sequence s, those of this step included. Query i of a sequence with q
                      queries stands at position ``seq_len - q + i``.
    ``block_table``   ``[S, max_blocks]`` int32 ids of cache blocks in order, or None: no cache, the keys are exactly
                      the packed ones of this step (then ``seq_lens`` equals the query lengths).
    ``slot_mapping``  ``[T]`` int64: where in the flattened cache ``[B * P]`` each packed token's key and value go;
                      None without a cache.
    ``is_causal``     a query sees keys at positions up to its own; otherwise all keys of its sequence.
    ``window``        at most the last ``window`` keys up to and including its own position, or None. Causal only.
    ``query_lens`` and ``context_lens`` are the same lengths as host integers, so that no backend has to synchronise a device.
    """

    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    block_table: torch.Tensor | None = None
    slot_mapping: torch.Tensor | None = None
    is_causal: bool = True
    window: int | None = None

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.query_lens)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's share of the paged cache: ``key`` and ``value``, both ``[B, P, K, D]`` in the cache dtype.

    The "native" backend's blocks lie otherwise: ``[B, elements]``, see ``registry.cache_block_shape``.
    """

    key: torch.Tensor
    value: torch.Tensor


class AttentionBackend(Protocol):
    """Computes softmax(q k^T * scale) v over a packed batch. Stateless; one instance serves every layer."""

    name: str

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cache: LayerCache | None,
        metadata: AttentionMetadata,
        *,
        scale: float,
    ) -> torch.Tensor:
        """Attend.

        ``q`` ``[T, H, D]``, ``k`` and ``v`` ``[T, K, D]``, all of one dtype. With a cache, writes k and v at
        ``metadata.slot_mapping`` first and then reads all keys through ``metadata.block_table``.
        Returns ``[T, H, D]`` in q's dtype.
        """
        ...
