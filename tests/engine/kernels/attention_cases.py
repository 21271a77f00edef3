"""Attention kernels for tests: sequences of random numbers, a paged cache full of NaN until written, and calls on both.

The oracle is the formula in float64, from keys and values as the cache holds them.
"""

import ctypes
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attendant_engine.kernels.cpu.cache_layout import CACHE_FORMATS, elements_per_token
from attendant_engine.kernels.cpu.calls import AttentionCall, CacheView, CacheWriteCall, Format, Rows
from attendant_engine.kernels.cpu.library import KernelLibrary

FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}
POISON = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all sequences of a case have in common. ``dtype`` is the cache's."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    is_causal: bool = True
    window: int | None = None

    @property
    def scale(self) -> float:
        """The usual one."""
        return float(self.head_dim**-0.5)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: ``q`` ``[N, H, D]``, and ``k`` and ``v`` ``[C, K, D]``, all float32."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def random_shape(choose: random.Random, dtype: torch.dtype) -> Shape:
    """Draw heads, grouped or not, of a size that is often odd, with or without a window."""
    num_kv_heads = choose.choice([1, 2, 3])
    return Shape(
        num_heads=num_kv_heads * choose.choice([1, 1, 2, 3, 7]),
        num_kv_heads=num_kv_heads,
        head_dim=choose.choice([1, 5, 16, 24, 32, 40, 64, 64, 80, 96, 128]),
        dtype=dtype,
        window=choose.choice([None, None, 1, 17, 64, 100]),
    )


def random_tokens(shape: Shape, num_queries: int, num_keys: int) -> Tokens:
    """Draw a sequence. Keys have a common part, as real ones do, so that scores are far from zero on the whole."""
    keys = torch.randn(num_keys, shape.num_kv_heads, shape.head_dim) + torch.randn(shape.num_kv_heads, shape.head_dim)
    return Tokens(
        torch.randn(num_queries, shape.num_heads, shape.head_dim), keys, torch.randn(num_keys, shape.num_kv_heads, shape.head_dim)
    )


class PagedCache:
    """One layer's cache of some sequences, each in blocks of its own in any order; what is not written is NaN."""

    def __init__(self, kernels: KernelLibrary, shape: Shape, *, lengths: Sequence[int], block_size: int, choose: random.Random) -> None:
        self.kernels, self.shape, self.block_size = kernels, shape, block_size
        widths = [-(-length // block_size) for length in lengths]
        num_blocks = sum(widths) + 1
        order = list(range(num_blocks))
        choose.shuffle(order)
        # What stands past a sequence's own blocks is no block at all.
        self.table = torch.full((len(lengths), max(widths, default=0) + 1), 10**8, dtype=torch.int32)
        for sequence, width in enumerate(widths):
            self.table[sequence, :width] = torch.tensor([order.pop() for _ in range(width)], dtype=torch.int32)
        elements = block_size * elements_per_token(shape.num_kv_heads, shape.head_dim, shape.dtype)
        poison = -1 if shape.dtype is torch.int8 else POISON  # four bytes of which are a NaN, where a scale is read
        self.key = torch.full((num_blocks, elements), poison, dtype=shape.dtype)
        self.value = torch.full((num_blocks, elements), poison, dtype=shape.dtype)

    @property
    def view(self) -> CacheView:
        """The cache as kernels see it."""
        shape = self.shape
        return CacheView(
            self.key.data_ptr(), self.value.data_ptr(), CACHE_FORMATS[shape.dtype], self.block_size, shape.num_kv_heads, shape.head_dim
        )

    def slots(self, sequence: int, first: int, last: int) -> list[int]:
        """Return where the positions ``first`` to ``last`` of a sequence go."""
        table = self.table[sequence].tolist()
        return [table[position // self.block_size] * self.block_size + position % self.block_size for position in range(first, last)]

    def write(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: Sequence[int],
        *,
        q: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cos: torch.Tensor | None = None,
        sin: torch.Tensor | None = None,
    ) -> None:
        """Write keys and values ``[T, K, D]`` and, with cosines and sines ``[positions, D / 2]``, rotate ``q`` in place."""
        # Side by side as a fused product leaves them, and with room between rows.
        rows = torch.cat([k.flatten(1), v.flatten(1), torch.full((len(slots), 3), POISON)], dim=1)
        where = torch.tensor(slots, dtype=torch.int64)
        call = CacheWriteCall(
            cache=self.view,
            q=None if q is None else q.data_ptr(),
            k=rows.data_ptr(),
            v=rows.data_ptr() + k.flatten(1).shape[1] * 4,
            q_stride=0 if q is None else q.stride(0),
            kv_stride=rows.stride(0),
            num_heads=self.shape.num_heads,
            num_tokens=len(slots),
            slots=where.data_ptr(),
            position_ids=None if position_ids is None else position_ids.data_ptr(),
            cos=None if cos is None else cos.data_ptr(),
            sin=None if sin is None else sin.data_ptr(),
        )
        self.kernels.c.attendant_write_cache(ctypes.addressof(call))

    def attend(
        self, queries: Sequence[torch.Tensor], seq_lens: Sequence[int], sequences: Sequence[int], *, out_dtype: torch.dtype = torch.float32
    ) -> list[torch.Tensor]:
        """Return the results ``[n, H, D]`` of the last queries ``[n, H, D]`` of some sequences that have ``seq_lens`` keys."""
        shape = self.shape
        q = torch.cat([part.flatten(1) for part in queries])
        out = torch.full((q.shape[0], q.shape[1] + 1), POISON, dtype=out_dtype)
        starts = torch.tensor([0, *(part.shape[0] for part in queries)], dtype=torch.int32).cumsum(0).int()
        lens, table = torch.tensor(seq_lens, dtype=torch.int32), self.table[list(sequences)].contiguous()
        call = AttentionCall(
            cache=self.view,
            q=q.data_ptr(),
            q_stride=q.stride(0),
            num_heads=shape.num_heads,
            num_sequences=len(sequences),
            cu_seqlens_q=starts.data_ptr(),
            seq_lens=lens.data_ptr(),
            block_table=table.data_ptr(),
            block_table_stride=table.stride(0),
            is_causal=shape.is_causal,
            window=shape.window or 0,
            scale=shape.scale,
            out=Rows(out.data_ptr(), out.stride(0), FORMATS[out_dtype], None),
        )
        self.kernels.c.attendant_attention(ctypes.addressof(call))
        assert bool(out[:, -1].isnan().all()), "wrote past a row's end"
        return [part.view(-1, shape.num_heads, shape.head_dim) for part in out[:, :-1].tensor_split(starts[1:-1].long())]


def whole(kernels: KernelLibrary, shape: Shape, tokens: Tokens) -> torch.Tensor:
    """Attend a sequence alone and at once, on one thread."""
    num_keys, num_threads = tokens.k.shape[0], kernels.num_threads
    kernels.set_num_threads(1)
    cache = PagedCache(kernels, shape, lengths=[num_keys], block_size=64, choose=random.Random(0))
    cache.write(tokens.k, tokens.v, cache.slots(0, 0, num_keys))
    (out,) = cache.attend([tokens.q], [num_keys], [0])
    kernels.set_num_threads(num_threads)
    return out


def as_cached(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return keys or values ``[..., D]`` as a cache of ``dtype`` holds them: rounded to it, or to int8 with a scale a row, in float32."""
    if dtype is not torch.int8:
        return x.to(dtype)
    largest = x.abs().amax(-1, keepdim=True)
    factor = torch.full_like(largest, 127) / largest  # 127 / largest is a product with the reciprocal
    return ((x * factor).round() + 0.0) * (largest / 127)  # bytes know no negative zero


def formula(shape: Shape, tokens: Tokens) -> torch.Tensor:
    """Return what ``whole`` should, ``[N, H, D]`` in float64."""
    group = shape.num_heads // shape.num_kv_heads
    k, v = (as_cached(part, shape.dtype).double().repeat_interleave(group, dim=1) for part in (tokens.k, tokens.v))
    scores = torch.einsum("qhd,khd->hqk", tokens.q.double(), k) * shape.scale
    if shape.is_causal:
        num_queries, num_keys = tokens.q.shape[0], tokens.k.shape[0]
        distance = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)
        is_seen = (distance >= 0) & (distance < (shape.window or num_keys))
        scores = scores.masked_fill(~is_seen, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare floats as bits."""
    whole_numbers = torch.int32 if a.dtype is torch.float32 else torch.int16
    return torch.equal(a.contiguous().view(whole_numbers), b.contiguous().view(whole_numbers))
