"""Attention by torch's ``scaled_dot_product_attention``: the CPU's backend, and right on any device.

Prefill chunks and encoder sequences are attended one by one, so nothing is padded; all single-token decodes whose
contexts are of about the same length share one gather and one masked call, which wastes less than half of it.
Grouped queries never copy keys: prefill expands them by stride, decode lays the group out as query rows.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.attention.paging import write_to_cache

_MAX_GROUP_KEYS = 8192
"""Keys of one gather over several sequences: bounds the scratch memory, and keeps it near the processor."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One sequence with several queries: its rows, the ``slots`` ``[C]`` of its past and, where needed, who sees what.

    ``slots`` is None where all keys are those of this step.
    """

    first_row: int
    num_queries: int
    slots: torch.Tensor | None
    mask: torch.Tensor | None
    is_causal: bool


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """N single-query sequences of similar context, padded to C keys: ``rows`` ``[N]``, ``slots`` ``[N * C]``, ``mask`` ``[N, 1, 1, C]``."""

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one step's metadata is attended; made once a step and used by every layer."""

    chunks: tuple[_Chunk, ...]
    groups: tuple[_DecodeGroup, ...]


class _Workspace:
    """Scratch memory for gathered keys and values, kept from layer to layer: fresh pages cost more than the copying."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []

    def gather(self, cache: LayerCache, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values at ``slots`` ``[N]``, both ``[N, K, D]``, valid until the next call."""
        shape = (slots.shape[0], *cache.key.shape[2:])
        keys, values = (buffer[: shape[0]] for buffer in self._at_least(shape, cache.key))
        torch.index_select(cache.key.view(-1, *shape[1:]), 0, slots, out=keys)
        torch.index_select(cache.value.view(-1, *shape[1:]), 0, slots, out=values)
        return keys, values

    def _at_least(self, shape: tuple[int, ...], like: torch.Tensor) -> list[torch.Tensor]:
        have = self._buffers[0] if self._buffers else None
        if have is None or have.shape[0] < shape[0] or have.shape[1:] != shape[1:] or have.dtype != like.dtype:
            # Made outside inference mode, so that it may be written both inside and outside of it.
            with torch.inference_mode(False):
                self._buffers = [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in range(2)]
        return self._buffers


class TorchAttention:
    """SDPA a chunk, and one SDPA for each group of decodes."""

    name = "torch"

    def __init__(self) -> None:
        # The last step's plan: every layer of a step passes the same metadata object, so identity is the key.
        self._planned: tuple[AttentionMetadata, _Plan] | None = None
        self._workspace = _Workspace()

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
            keys, values = self._keys_of(chunk, k, v, cache)
            _attend_chunk(q, keys, values, chunk, out, scale)
        for group in plan.groups:
            assert cache is not None, "decode groups are planned with a cache alone"
            keys, values = self._workspace.gather(cache, group.slots)
            _attend_decodes(q, keys.to(q.dtype), values.to(q.dtype), group, out, scale)
        return out

    def _keys_of(self, chunk: _Chunk, k: torch.Tensor, v: torch.Tensor, cache: LayerCache | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the chunk's keys and values ``[C, K, D]``: at hand if it has no past, else from the cache."""
        if cache is None or chunk.slots is None:
            rows = slice(chunk.first_row, chunk.first_row + chunk.num_queries)
            return k[rows], v[rows]
        keys, values = self._workspace.gather(cache, chunk.slots)
        return keys.to(k.dtype), values.to(v.dtype)

    def _plan(self, metadata: AttentionMetadata, block_size: int | None) -> _Plan:
        if self._planned is None or self._planned[0] is not metadata:
            self._planned = (metadata, _make_plan(metadata, block_size))
        return self._planned[1]


def _make_plan(metadata: AttentionMetadata, block_size: int | None) -> _Plan:
    chunks: list[_Chunk] = []
    decodes_by_length: dict[int, list[tuple[int, int]]] = {}
    first_row = 0
    for sequence, (num_queries, num_keys) in enumerate(zip(metadata.query_lens, metadata.context_lens, strict=True)):
        if num_queries == 1 and block_size is not None:
            decodes_by_length.setdefault(_next_power_of_two(num_keys), []).append((sequence, first_row))
        elif num_queries > 0:
            chunks.append(_plan_chunk(metadata, sequence, first_row, num_queries, num_keys, block_size))
        first_row += num_queries
    groups = []
    for length, members in decodes_by_length.items():
        size = max(1, _MAX_GROUP_KEYS // length)
        groups += [_plan_group(metadata, members[first : first + size], block_size or 1) for first in range(0, len(members), size)]
    return _Plan(tuple(chunks), tuple(groups))


def _next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _plan_chunk(
    metadata: AttentionMetadata, sequence: int, first_row: int, num_queries: int, num_keys: int, block_size: int | None
) -> _Chunk:
    device = metadata.seq_lens.device
    is_whole = num_queries == num_keys
    slots = None
    if block_size is not None and not is_whole:
        assert metadata.block_table is not None, "a cache needs a block table"
        positions = torch.arange(num_keys, device=device)
        slots = metadata.block_table[sequence].to(torch.int64)[positions // block_size] * block_size + positions % block_size
    mask = None
    if metadata.is_causal and (not is_whole or (metadata.window is not None and metadata.window < num_keys)):
        query_positions = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
        key_positions = torch.arange(num_keys, device=device)[None, :]
        mask = key_positions <= query_positions
        if metadata.window is not None:
            mask &= key_positions > query_positions - metadata.window
    return _Chunk(first_row, num_queries, slots, mask, metadata.is_causal and mask is None)


def _plan_group(metadata: AttentionMetadata, members: list[tuple[int, int]], block_size: int) -> _DecodeGroup:
    assert metadata.block_table is not None, "a cache needs a block table"
    device = metadata.seq_lens.device
    num_keys = max(metadata.context_lens[sequence] for sequence, _ in members)
    sequences = torch.tensor([sequence for sequence, _ in members], device=device)
    rows = torch.tensor([row for _, row in members], device=device)
    lengths = metadata.seq_lens[sequences].to(torch.int64)[:, None]
    positions = torch.arange(num_keys, device=device)[None, :]
    is_ragged = any(metadata.context_lens[sequence] != num_keys for sequence, _ in members)
    mask = None
    if is_ragged or (metadata.is_causal and metadata.window is not None):
        visible = positions < lengths
        if metadata.is_causal and metadata.window is not None:
            visible &= positions >= lengths - metadata.window
        mask = visible[:, None, None, :]
    # Padding repeats a sequence's own last key: it is masked, but a number that is none in another sequence's slot, or in
    # a slot left by a failed request, would pass through a mask all the same (0 * nan is nan).
    own = torch.minimum(positions, lengths - 1)
    blocks = metadata.block_table[sequences].to(torch.int64).gather(1, own // block_size)
    return _DecodeGroup(rows, (blocks * block_size + own % block_size).flatten(), mask)


def _attend_chunk(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, chunk: _Chunk, out: torch.Tensor, scale: float) -> None:
    rows = slice(chunk.first_row, chunk.first_row + chunk.num_queries)
    num_kv_heads, head_dim = keys.shape[1], keys.shape[2]
    num_groups = q.shape[1] // num_kv_heads
    # [K, G, T, D] queries against keys whose G axis has stride zero: one call, nothing copied.
    queries = q[rows].view(-1, num_kv_heads, num_groups, head_dim).permute(1, 2, 0, 3)
    grouped_keys = keys.permute(1, 0, 2)[:, None].expand(-1, num_groups, -1, -1)
    grouped_values = values.permute(1, 0, 2)[:, None].expand(-1, num_groups, -1, -1)
    attended = scaled_dot_product_attention(
        queries, grouped_keys, grouped_values, attn_mask=chunk.mask, is_causal=chunk.is_causal, scale=scale
    )
    out[rows] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_decodes(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: _DecodeGroup, out: torch.Tensor, scale: float
) -> None:
    num_sequences = group.rows.shape[0]
    num_kv_heads, head_dim = keys.shape[1], keys.shape[2]
    # [N, K, C, D]
    keys, values = (part.view(num_sequences, -1, num_kv_heads, head_dim).transpose(1, 2) for part in (keys, values))
    # One query a sequence: the G heads that share a key/value head stand where query positions would, [N, K, G, D].
    queries = q[group.rows].view(num_sequences, num_kv_heads, -1, head_dim)
    attended = scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask, scale=scale)
    out[group.rows] = attended.flatten(1, 2)
