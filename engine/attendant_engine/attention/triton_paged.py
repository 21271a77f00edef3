"""Attention on CUDA: our Triton kernel over the block table, launched for decodes and for longer chunks separately.

The two differ in tile sizes alone. On a CPU it runs in Triton's interpreter, for tests (``TRITON_INTERPRET=1``).
"""

from dataclasses import dataclass

import torch
import triton

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.attention.paging import write_to_cache
from attendant_engine.kernels.paged_attention import attention_kernel

_MIN_TILE = 16
"""The least size of a side that Triton's matrix product takes."""

_CHUNK_ROWS = 64
_KEYS = 32


@dataclass(frozen=True, slots=True)
class _Launch:
    """Tiles of one size: the sequence and the first query of each, ``[tiles]`` int32."""

    num_rows: int
    num_positions: int
    tile_sequences: torch.Tensor
    tile_positions: torch.Tensor


class TritonAttention:
    """Two launches a layer at most: all single-query sequences, and all others."""

    name = "triton"

    def __init__(self) -> None:
        # The last step's launches: every layer of a step passes the same metadata object, so identity is the key.
        self._planned: tuple[AttentionMetadata, tuple[_Launch, ...]] | None = None

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
        """Attend, as ``AttentionBackend.forward`` says."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        keys, values = (k, v) if cache is None else (cache.key, cache.value)
        if cache is not None:
            write_to_cache(k, v, cache, metadata)
        num_kv_heads, head_dim = k.shape[1], k.shape[2]
        # The packed keys [T, K, D] are strided as one block of the cache's [B, P, K, D].
        key_strides, value_strides = ((0, 0, 0, 0)[: 4 - tensor.dim()] + tensor.stride() for tensor in (keys, values))
        table = metadata.cu_seqlens_q if metadata.block_table is None else metadata.block_table
        for launch in self._launches(metadata, q.shape[1] // num_kv_heads):
            attention_kernel[(launch.tile_sequences.shape[0], num_kv_heads)](
                q,
                keys,
                values,
                out,
                launch.tile_sequences,
                launch.tile_positions,
                metadata.cu_seqlens_q,
                metadata.seq_lens,
                table,
                scale,
                q.stride(0),
                q.stride(1),
                out.stride(0),
                out.stride(1),
                *key_strides[:3],
                *value_strides[:3],
                table.stride(0),
                GROUP=q.shape[1] // num_kv_heads,
                HEAD_DIM=head_dim,
                PADDED_DIM=max(_MIN_TILE, triton.next_power_of_2(head_dim)),
                PAGE_SIZE=1 if cache is None else cache.key.shape[1],
                WINDOW=metadata.window or 0,
                IS_CAUSAL=metadata.is_causal,
                IS_PAGED=cache is not None,
                TILE_ROWS=launch.num_rows,
                TILE_POSITIONS=launch.num_positions,
                TILE_KEYS=_KEYS,
            )
        return out

    def _launches(self, metadata: AttentionMetadata, group: int) -> tuple[_Launch, ...]:
        if self._planned is None or self._planned[0] is not metadata:
            self._planned = (metadata, plan_launches(metadata, group))
        return self._planned[1]


def plan_launches(metadata: AttentionMetadata, group: int) -> tuple[_Launch, ...]:
    """Cut a step into tiles: one a decode, and ``_CHUNK_ROWS`` rows each of everything longer.

    ``group`` is the number of query heads that share a key/value head, all of which stand in one tile.
    """
    padded_group = triton.next_power_of_2(group)
    launches = []
    for is_decode, num_rows in ((True, max(_MIN_TILE, padded_group)), (False, max(_CHUNK_ROWS, padded_group))):
        num_positions = 1 if is_decode else num_rows // group
        tiles = [
            (sequence, first_query)
            for sequence, num_queries in enumerate(metadata.query_lens)
            if (num_queries == 1) == is_decode
            for first_query in range(0, num_queries, num_positions)
        ]
        if tiles:
            sequences, positions = torch.tensor(tiles, dtype=torch.int32, device=metadata.seq_lens.device).T.contiguous()
            launches.append(_Launch(num_rows, num_positions, sequences, positions))
    return tuple(launches)
