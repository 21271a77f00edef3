"""The native backend's cache layout by index arithmetic: the oracle of ``kernels/cpu/src/cache_layout.h``."""

import torch
from torch.nn.functional import pad

from attendant_engine.attention.base import LayerCache

TILE = 16


def to_native(cache: LayerCache) -> LayerCache:
    """Lay out plain ``[B, P, K, D]`` keys as ``[B, K, P / 16, D' / g, 16, g]`` and values as ``[B, K, P / 16, 16 / g, D', g]``, flat."""
    num_blocks, block_size, num_kv_heads, head_dim = cache.key.shape
    group, tiles, padded = _group(cache.key.dtype), block_size // TILE, -(-head_dim // TILE) * TILE
    keys, values = (pad(part, (0, padded - head_dim)) for part in (cache.key, cache.value))
    keys = keys.view(num_blocks, tiles, TILE, num_kv_heads, padded // group, group).permute(0, 3, 1, 4, 2, 5)
    values = values.view(num_blocks, tiles, TILE // group, group, num_kv_heads, padded).permute(0, 4, 1, 2, 5, 3)
    return LayerCache(keys.reshape(num_blocks, -1).clone(), values.reshape(num_blocks, -1).clone())


def from_native(cache: LayerCache, shape: torch.Size) -> LayerCache:
    """Take native keys and values back to ``shape``, ``[B, P, K, D]``: int8 as float32, multiplied by the scales."""
    num_blocks, block_size, num_kv_heads, head_dim = shape
    group, tiles, padded = _group(cache.key.dtype), block_size // TILE, -(-head_dim // TILE) * TILE
    places = num_blocks, num_kv_heads, tiles
    key, key_scales = _numbers_and_scales(cache.key, places)
    value, value_scales = _numbers_and_scales(cache.value, places)
    keys = key.reshape(*places, padded // group, TILE, group).permute(0, 2, 4, 1, 3, 5)
    values = value.reshape(*places, TILE // group, padded, group).permute(0, 2, 3, 5, 1, 4)
    plain = (part.reshape(num_blocks, block_size, num_kv_heads, padded)[..., :head_dim].clone() for part in (keys, values))
    if key_scales is None or value_scales is None:
        return LayerCache(*plain)
    scales = (part.permute(0, 2, 3, 1).reshape(num_blocks, block_size, num_kv_heads, 1) for part in (key_scales, value_scales))
    return LayerCache(*(part.float() * scale for part, scale in zip(plain, scales, strict=True)))


def _numbers_and_scales(part: torch.Tensor, places: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Split the tiles of a cache; the scales are ``[B, K, tiles, 16]`` float32."""
    if part.dtype is not torch.int8:
        return part, None
    tile = part.view(*places, -1)
    return tile[..., 4 * TILE :], tile[..., : 4 * TILE].contiguous().view(torch.float32)


def _group(dtype: torch.dtype) -> int:
    size: int = dtype.itemsize
    return 4 // size
