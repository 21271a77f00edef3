"""Random ragged steps for attention backends: lengths, blocks in any order, and caches with a past."""

from dataclasses import dataclass

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Arguments of one ``forward``."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cache: LayerCache | None
    metadata: AttentionMetadata

    def with_own_cache(self) -> LayerCache | None:
        """A copy, since ``forward`` writes to it."""
        return None if self.cache is None else LayerCache(self.cache.key.clone(), self.cache.value.clone())


def make_step(
    lengths: list[tuple[int, int]],
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    seed: int,
    block_size: int | None = 4,
    is_causal: bool = True,
    window: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Step:
    """Return a step of sequences with the given (queries, keys); without ``block_size`` there is no cache."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    query_lens = tuple(queries for queries, _ in lengths)
    context_lens = tuple(keys for _, keys in lengths)
    num_tokens = sum(query_lens)
    table, slots, cache = None, None, None
    if block_size is not None:
        widths = [-(-keys // block_size) for keys in context_lens]
        num_blocks = sum(widths) + 2
        order = torch.randperm(num_blocks, generator=generator).tolist()
        # What stands past a sequence's own blocks is no block at all: no backend may touch it.
        table = torch.full((len(lengths), max(widths) + 1), 10**6, dtype=torch.int32)
        places: list[int] = []
        for sequence, (queries, keys) in enumerate(lengths):
            own = [order.pop() for _ in range(widths[sequence])]
            table[sequence, : len(own)] = torch.tensor(own, dtype=torch.int32)
            places += [own[position // block_size] * block_size + position % block_size for position in range(keys - queries, keys)]
        table = table.to(device)
        slots = torch.tensor(places, dtype=torch.int64, device=device)
        key, value = random(num_blocks, block_size, num_kv_heads, head_dim), random(num_blocks, block_size, num_kv_heads, head_dim)
        cache = LayerCache(key, value)
    starts = torch.tensor([0, *query_lens]).cumsum(0).to(device, torch.int32)
    # One fused product holds queries, keys and values side by side, as models pass them: strided, not contiguous.
    fused = random(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)
    q, k, v = torch.tensor_split(fused, (num_heads * head_dim, (num_heads + num_kv_heads) * head_dim), dim=-1)
    return Step(
        q=q.view(num_tokens, num_heads, head_dim),
        k=k.view(num_tokens, num_kv_heads, head_dim),
        v=v.view(num_tokens, num_kv_heads, head_dim),
        cache=cache,
        metadata=AttentionMetadata(
            cu_seqlens_q=starts,
            seq_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
            query_lens=query_lens,
            context_lens=context_lens,
            block_table=table,
            slot_mapping=slots,
            is_causal=is_causal,
            window=window,
        ),
    )
