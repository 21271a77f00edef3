"""Attention by the CPU kernels of ``kernels/cpu``: one pass over the paged cache where it lies, the same bits in any batch.

The cache's tensors are ``[B, elements]`` in the layout of ``kernels/cpu/src/cache_layout.h``, which only kernels read.
Without a cache the keys and values of the step are laid out in a scratch cache whose blocks stand in order.
"""

import ctypes
from dataclasses import dataclass

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.kernels.cpu.cache_layout import CACHE_FORMATS, elements_per_token
from attendant_engine.kernels.cpu.calls import AttentionCall, CacheView, CacheWriteCall, Format, Rows
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library

MAX_HEAD_DIM = 256

FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}
"""What it computes in, and a result can be."""

_SCRATCH_BLOCK = 64  # positions a block of a scratch cache: as many as the kernel attends at a time


@dataclass(frozen=True, slots=True)
class _Places:
    """A cache, and where a step's tokens stand in it: ``table`` ``[S, blocks]`` int32, ``slots`` ``[T]`` int64."""

    cache: LayerCache
    block_size: int
    table: torch.Tensor
    slots: torch.Tensor


class NativeAttention:
    """Two kernel calls a layer: keys and values into the cache, and attention over it."""

    name = "native"

    def __init__(self) -> None:
        library = load_library()
        assert library is not None, "the registry offers this backend where the kernels can run"
        self._library: KernelLibrary = library

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
        """Attend, as ``AttentionBackend.forward`` says; the cache's tensors are ``[B, elements]``."""
        num_kv_heads, head_dim = k.shape[1:]
        places = _scratch_places(k, metadata) if cache is None else _cache_places(cache, metadata, num_kv_heads, head_dim)
        view = CacheView(
            key=places.cache.key.data_ptr(),
            value=places.cache.value.data_ptr(),
            format=CACHE_FORMATS[places.cache.key.dtype],
            block_size=places.block_size,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
        )
        q_rows, k_rows, v_rows = (part.float().flatten(1).contiguous() for part in (q, k, v))
        write = CacheWriteCall(
            cache=view,
            q=q_rows.data_ptr(),
            k=k_rows.data_ptr(),
            v=v_rows.data_ptr(),
            q_stride=q_rows.stride(0),
            kv_stride=k_rows.stride(0),
            num_heads=q.shape[1],
            num_tokens=q.shape[0],
            slots=places.slots.data_ptr(),
        )
        self._library.c.attendant_write_cache(ctypes.addressof(write))
        out = torch.empty(q.shape, dtype=q.dtype)
        call = AttentionCall(
            cache=view,
            q=q_rows.data_ptr(),
            q_stride=q_rows.stride(0),
            num_heads=q.shape[1],
            num_sequences=metadata.num_sequences,
            cu_seqlens_q=metadata.cu_seqlens_q.data_ptr(),
            seq_lens=metadata.seq_lens.data_ptr(),
            block_table=places.table.data_ptr(),
            block_table_stride=places.table.stride(0),
            is_causal=metadata.is_causal,
            window=metadata.window or 0,
            scale=scale,
            out=Rows(out.data_ptr(), out.stride(0), FORMATS[out.dtype], None),
        )
        self._library.c.attendant_attention(ctypes.addressof(call))
        return out


def _cache_places(cache: LayerCache, metadata: AttentionMetadata, num_kv_heads: int, head_dim: int) -> _Places:
    assert metadata.block_table is not None and metadata.slot_mapping is not None, "a cache needs a block table and a slot mapping"
    block_size = cache.key.shape[1] // elements_per_token(num_kv_heads, head_dim, cache.key.dtype)
    return _Places(cache, block_size, metadata.block_table, metadata.slot_mapping)


def _scratch_places(k: torch.Tensor, metadata: AttentionMetadata) -> _Places:
    """Lay the step's sequences out in blocks of their own. Slots that are never written are never read, so empty will do."""
    num_blocks = [-(-length // _SCRATCH_BLOCK) for length in metadata.query_lens]
    table = torch.zeros((len(num_blocks), max(num_blocks, default=0)), dtype=torch.int32)
    slots = torch.empty(k.shape[0], dtype=torch.int64)
    first_block = first_row = 0
    for sequence, (length, count) in enumerate(zip(metadata.query_lens, num_blocks, strict=True)):
        table[sequence, :count] = torch.arange(first_block, first_block + count)
        first_slot = first_block * _SCRATCH_BLOCK
        slots[first_row : first_row + length] = torch.arange(first_slot, first_slot + length)
        first_block += count
        first_row += length
    shape = (first_block, _SCRATCH_BLOCK * elements_per_token(k.shape[1], k.shape[2], k.dtype))
    cache = LayerCache(torch.empty(shape, dtype=k.dtype), torch.empty(shape, dtype=k.dtype))
    return _Places(cache, _SCRATCH_BLOCK, table, slots)
