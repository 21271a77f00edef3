"""Attention by torch's ``scaled_dot_product_attention``: the CPU's backend, and right on any device.

Prefill chunks and encoder sequences are attended one by one, so nothing is padded; all single-token decodes whose
contexts need about the same number of blocks share one gather and one masked call, which wastes less than half of it.
Grouped queries never copy keys: prefill expands them by stride, decode lays the group out as query rows.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from attendant_engine.attention.base import AttentionMetadata, LayerCache


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One sequence with several queries: its rows, its cache blocks and, where needed, which keys each query sees."""

    first_row: int
    num_queries: int
    num_keys: int
    blocks: torch.Tensor | None
    mask: torch.Tensor | None
    is_causal: bool


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Single-query sequences of similar context: ``rows`` ``[N]``, ``blocks`` ``[N, W]``, ``mask`` ``[N, 1, 1, W * P]``."""

    rows: torch.Tensor
    blocks: torch.Tensor
    mask: torch.Tensor | None
    num_keys: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one step's metadata is attended; made once a step and used by every layer."""

    chunks: tuple[_Chunk, ...]
    groups: tuple[_DecodeGroup, ...]


class TorchAttention:
    """SDPA a chunk, and one SDPA for each group of decodes."""

    name = "torch"

    def __init__(self) -> None:
        # The last step's plan: every layer of a step passes the same metadata object, so identity is the key.
        self._planned: tuple[AttentionMetadata, _Plan] | None = None

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
        block_size = None
        if cache is not None:
            block_size = cache.key.shape[1]
            write_to_cache(k, v, cache, metadata)
        plan = self._plan(metadata, block_size)
        out = torch.empty_like(q)
        for chunk in plan.chunks:
            _attend_chunk(q, k, v, cache, chunk, out, scale)
        for group in plan.groups:
            assert cache is not None, "decode groups are planned with a cache alone"
            _attend_decodes(q, cache, group, out, scale)
        return out

    def _plan(self, metadata: AttentionMetadata, block_size: int | None) -> _Plan:
        if self._planned is None or self._planned[0] is not metadata:
            self._planned = (metadata, _make_plan(metadata, block_size))
        return self._planned[1]


def write_to_cache(k: torch.Tensor, v: torch.Tensor, cache: LayerCache, metadata: AttentionMetadata) -> None:
    """Write ``k`` and ``v`` ``[T, K, D]`` to the slots of ``metadata.slot_mapping``."""
    assert metadata.slot_mapping is not None, "a cache needs a slot mapping"
    cache.key.view(-1, *k.shape[1:]).index_copy_(0, metadata.slot_mapping, k.to(cache.key.dtype))
    cache.value.view(-1, *v.shape[1:]).index_copy_(0, metadata.slot_mapping, v.to(cache.value.dtype))


def _make_plan(metadata: AttentionMetadata, block_size: int | None) -> _Plan:
    chunks: list[_Chunk] = []
    decodes_by_width: dict[int, list[tuple[int, int]]] = {}
    first_row = 0
    for sequence, (num_queries, num_keys) in enumerate(zip(metadata.query_lens, metadata.context_lens, strict=True)):
        if num_queries == 1 and block_size is not None:
            width = _next_power_of_two(-(-num_keys // block_size))
            decodes_by_width.setdefault(width, []).append((sequence, first_row))
        elif num_queries > 0:
            chunks.append(_plan_chunk(metadata, sequence, first_row, num_queries, num_keys, block_size))
        first_row += num_queries
    groups = tuple(_plan_group(metadata, members, block_size or 1) for members in decodes_by_width.values())
    return _Plan(tuple(chunks), groups)


def _next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _plan_chunk(
    metadata: AttentionMetadata, sequence: int, first_row: int, num_queries: int, num_keys: int, block_size: int | None
) -> _Chunk:
    blocks = None
    if block_size is not None:
        assert metadata.block_table is not None, "a cache needs a block table"
        blocks = metadata.block_table[sequence, : -(-num_keys // block_size)]
    is_whole = num_queries == num_keys
    mask = None
    if metadata.is_causal and (not is_whole or (metadata.window is not None and metadata.window < num_keys)):
        device = metadata.seq_lens.device
        query_positions = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
        key_positions = torch.arange(num_keys, device=device)[None, :]
        mask = key_positions <= query_positions
        if metadata.window is not None:
            mask &= key_positions > query_positions - metadata.window
    return _Chunk(first_row, num_queries, num_keys, blocks, mask, metadata.is_causal and mask is None)


def _plan_group(metadata: AttentionMetadata, members: list[tuple[int, int]], block_size: int) -> _DecodeGroup:
    assert metadata.block_table is not None, "a cache needs a block table"
    device = metadata.seq_lens.device
    num_keys = max(metadata.context_lens[sequence] for sequence, _ in members)
    width = -(-num_keys // block_size)
    sequences = torch.tensor([sequence for sequence, _ in members], device=device)
    rows = torch.tensor([row for _, row in members], device=device)
    lengths = metadata.seq_lens[sequences].to(torch.int64)[:, None]
    positions = torch.arange(num_keys, device=device)[None, :]
    visible = positions < lengths
    if metadata.is_causal and metadata.window is not None:
        visible &= positions >= lengths - metadata.window
    is_all_visible = bool(visible.all()) if device.type == "cpu" else False
    mask = None if is_all_visible else visible[:, None, None, :]
    # Table entries past a sequence's own blocks may be anything; block 0 is always there to be read and masked.
    used = torch.arange(width, device=device)[None, :] * block_size < lengths
    blocks = torch.where(used, metadata.block_table[sequences, :width], 0)
    return _DecodeGroup(rows, blocks, mask, num_keys)


def _attend_chunk(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: LayerCache | None, chunk: _Chunk, out: torch.Tensor, scale: float
) -> None:
    rows = slice(chunk.first_row, chunk.first_row + chunk.num_queries)
    num_kv_heads, head_dim = k.shape[1], k.shape[2]
    if cache is None or chunk.blocks is None:
        keys, values = k[rows], v[rows]
    elif chunk.num_queries == chunk.num_keys and cache.key.dtype == k.dtype:
        keys, values = k[rows], v[rows]  # Just written: what the cache holds is what is at hand.
    else:
        keys = cache.key[chunk.blocks].view(-1, num_kv_heads, head_dim)[: chunk.num_keys].to(q.dtype)
        values = cache.value[chunk.blocks].view(-1, num_kv_heads, head_dim)[: chunk.num_keys].to(q.dtype)
    num_groups = q.shape[1] // num_kv_heads
    # [K, G, T, D] queries against keys whose G axis has stride zero: one call, nothing copied.
    queries = q[rows].view(-1, num_kv_heads, num_groups, head_dim).permute(1, 2, 0, 3)
    grouped_keys = keys.permute(1, 0, 2)[:, None].expand(-1, num_groups, -1, -1)
    grouped_values = values.permute(1, 0, 2)[:, None].expand(-1, num_groups, -1, -1)
    attended = scaled_dot_product_attention(
        queries, grouped_keys, grouped_values, attn_mask=chunk.mask, is_causal=chunk.is_causal, scale=scale
    )
    out[rows] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_decodes(q: torch.Tensor, cache: LayerCache, group: _DecodeGroup, out: torch.Tensor, scale: float) -> None:
    num_sequences = group.blocks.shape[0]
    num_kv_heads, head_dim = cache.key.shape[2], cache.key.shape[3]
    keys = cache.key[group.blocks].view(num_sequences, -1, num_kv_heads, head_dim)[:, : group.num_keys].transpose(1, 2)
    values = cache.value[group.blocks].view(num_sequences, -1, num_kv_heads, head_dim)[:, : group.num_keys].transpose(1, 2)
    # One query a sequence: the G heads that share a key/value head stand where query positions would, [N, K, G, D].
    queries = q[group.rows].view(num_sequences, num_kv_heads, -1, head_dim)
    attended = scaled_dot_product_attention(queries, keys.to(q.dtype), values.to(q.dtype), attn_mask=group.mask, scale=scale)
    out[group.rows] = attended.flatten(1, 2)
