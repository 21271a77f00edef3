"""Attention backends by name, imported when they are first asked for, so that a CPU machine never imports Triton.

Also what follows from the choice: whether "auto" is "native" here, and the shape of a block of the cache.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

import torch

from attendant_engine.attention.base import AttentionBackend
from attendant_engine.attention.native import FORMATS, MAX_HEAD_DIM
from attendant_engine.errors import InvalidRequestError
from attendant_engine.kernels.cpu.cache_layout import TILE, elements_per_token
from attendant_engine.kernels.cpu.library import load_library

BACKENDS: dict[str, str] = {
    "reference": "attendant_engine.attention.reference:ReferenceAttention",
    "torch": "attendant_engine.attention.torch_sdpa:TorchAttention",
    "triton": "attendant_engine.attention.triton_paged:TritonAttention",
    "native": "attendant_engine.attention.native:NativeAttention",
}

_logger = logging.getLogger(__name__)


def resolve_backend_name(
    name: str,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    block_size: int | None = None,
    head_dim: int | None = None,
) -> str:
    """Return the backend that "auto" means on ``device``, or ``name`` itself.

    On a CPU "auto" is "native" for a cache that it can keep; "torch" for one that it cannot, or that is not described.
    Raises ``InvalidRequestError`` for a name that is not registered, or for "native" where it cannot serve.
    """
    if name not in ("auto", *BACKENDS):
        known = ", ".join(["auto", *BACKENDS])
        raise InvalidRequestError(f"There is no attention backend {name!r}; choose one of {known}.", param="attention_backend")
    if name not in ("auto", "native"):
        return name
    obstacle = native_obstacle(device, dtype=dtype, block_size=block_size, head_dim=head_dim)
    if name == "native":
        if obstacle is not None:
            raise InvalidRequestError(f"attention_backend is native, and {obstacle}; use auto.", param="attention_backend")
        return name
    if device.type == "cuda":
        return "triton"
    if dtype is None or block_size is None:
        return "torch"
    if obstacle is not None:
        _say_once(f"Attention runs in torch, which is slower: {obstacle}.")
        return "torch"
    return "native"


def native_obstacle(device: torch.device, *, dtype: torch.dtype | None, block_size: int | None, head_dim: int | None) -> str | None:
    """Return why "native" cannot serve a cache like this, as the end of a sentence, or None. What is None is not asked about."""
    if device.type != "cpu":
        return f"it is for CPUs while the device is {device.type}"
    if load_library() is None:
        return "the CPU kernels are not built or this processor lacks AVX2"
    if dtype is not None and dtype not in FORMATS:
        return f"it computes in float32 and bfloat16 while dtype is {str(dtype).removeprefix('torch.')}"
    if block_size is not None and block_size % TILE != 0:
        return f"it takes blocks of a multiple of {TILE} positions while block_size is {block_size}"
    if head_dim is not None and head_dim > MAX_HEAD_DIM:
        return f"it takes heads of at most {MAX_HEAD_DIM} dimensions while this model's have {head_dim}"
    return None


def cache_block_shape(name: str, *, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Return the shape of one block of keys, or of values, for the backend ``name``: ``[P, K, D]`` but for "native".

    ``dtype`` is the cache's.
    """
    if name == "native":
        return (block_size * elements_per_token(num_kv_heads, head_dim, dtype),)
    return (block_size, num_kv_heads, head_dim)


def load_backend(name: str, device: torch.device) -> AttentionBackend:
    """Import and make the backend called ``name`` ("auto" picks by device)."""
    module_name, class_name = BACKENDS[resolve_backend_name(name, device)].split(":")
    make = cast(Callable[[], AttentionBackend], getattr(import_module(module_name), class_name))
    return make()


@cache
def _say_once(message: str) -> None:
    _logger.warning(message)
