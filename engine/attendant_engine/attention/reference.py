"""The oracle: attention as the formula says, one sequence, one head and one query at a time, in float32.

Slow on purpose and for no other use than to be obviously right; every other backend is tested against it.
Source: Vaswani et al. 2017, section 3.2.1, over the paged cache of Kwon et al. 2023.
"""

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache


class ReferenceAttention:
    """Plain loops over sequences, heads and queries."""

    name = "reference"

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
        out = torch.empty_like(q)
        if cache is not None:
            _write_one_by_one(k, v, cache, metadata)
        num_queries_per_kv = q.shape[1] // k.shape[1]
        first_row = 0
        for sequence, num_queries in enumerate(metadata.query_lens):
            keys, values = _keys_and_values(sequence, k, v, cache, metadata)
            num_keys = keys.shape[0]
            for query in range(num_queries):
                first, last = visible_range(num_keys - num_queries + query, num_keys, metadata.is_causal, metadata.window)
                row = first_row + query
                for head in range(q.shape[1]):
                    kv_head = head // num_queries_per_kv
                    scores = keys[first:last, kv_head].float() @ q[row, head].float() * scale
                    out[row, head] = (torch.softmax(scores, dim=0) @ values[first:last, kv_head].float()).to(q.dtype)
            first_row += num_queries
        return out


def visible_range(position: int, num_keys: int, is_causal: bool, window: int | None) -> tuple[int, int]:
    """Return the half-open range of key positions that the query at ``position`` sees."""
    if not is_causal:
        return 0, num_keys
    first = 0 if window is None else max(0, position + 1 - window)
    return first, position + 1


def _write_one_by_one(k: torch.Tensor, v: torch.Tensor, cache: LayerCache, metadata: AttentionMetadata) -> None:
    assert metadata.slot_mapping is not None, "a cache needs a slot mapping"
    block_size = cache.key.shape[1]
    for row, slot in enumerate(metadata.slot_mapping.tolist()):
        cache.key[slot // block_size, slot % block_size] = k[row].to(cache.key.dtype)
        cache.value[slot // block_size, slot % block_size] = v[row].to(cache.value.dtype)


def _keys_and_values(
    sequence: int, k: torch.Tensor, v: torch.Tensor, cache: LayerCache | None, metadata: AttentionMetadata
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all keys and values of one sequence in order, both ``[context, K, D]``."""
    if cache is None:
        first_row = sum(metadata.query_lens[:sequence])
        rows = slice(first_row, first_row + metadata.query_lens[sequence])
        return k[rows], v[rows]
    assert metadata.block_table is not None, "a cache needs a block table"
    block_size = cache.key.shape[1]
    places = [
        (int(metadata.block_table[sequence, position // block_size]), position % block_size)
        for position in range(metadata.context_lens[sequence])
    ]
    keys = torch.stack([cache.key[block, offset] for block, offset in places])
    values = torch.stack([cache.value[block, offset] for block, offset in places])
    return keys, values
