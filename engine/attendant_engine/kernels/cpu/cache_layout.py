"""What of ``src/cache_layout.h`` Python has to know: element types, and how many elements a position takes."""

import torch

from attendant_engine.kernels.cpu.calls import Format

TILE = 16
"""Positions that lie together; a block is a whole number of tiles."""

CACHE_FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16, torch.int8: Format.I8}
"""What a cache can hold: numbers as they are, or rounded to bytes with a scale for each position and head."""

_SCALE_BYTES = 4


def elements_per_token(num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Return the elements that one position takes in the cache, of a key or of a value, for all heads: D is padded to 16."""
    return num_kv_heads * (-(-head_dim // TILE) * TILE + (_SCALE_BYTES if dtype is torch.int8 else 0))
