"""The kernels that work row by row, over torch tensors on the CPU: norms, pooling, and the check for what is not finite.

Each allocates its result and nothing else. The model's own forward pass does not come this way (see ``program.py``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attendant_engine.kernels.cpu.calls import EmbedCall, FiniteCall, Format, NormCall, PoolCall, Rows, Table
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.weights import PackedWeight
from attendant_engine.types import PoolingMode

_POOLING_MODES: dict[PoolingMode, int] = {"mean": 0, "cls": 1, "last": 2}
_DTYPES = {Format.F32: torch.float32, Format.BF16: torch.bfloat16, Format.U8: torch.uint8}
_FORMATS = {dtype: number_format for number_format, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Rows as bytes ``[N, E]`` and one scale each ``[N]`` float32: x = (byte - 128) * scale. Other formats have no scales."""

    values: torch.Tensor
    scales: torch.Tensor | None


def rows_of(x: torch.Tensor, scales: torch.Tensor | None = None) -> Rows:
    """Describe ``x`` ``[N, E]``, whose rows are contiguous, to a kernel; the caller keeps it alive."""
    assert x.dim() == 2 and (x.stride(1) == 1 or x.shape[1] <= 1), "a kernel reads rows of neighbouring numbers"
    return Rows(x.data_ptr(), x.stride(0), _FORMATS[x.dtype], None if scales is None else scales.data_ptr())


def can_serve(x: torch.Tensor) -> bool:
    """Say whether the kernels of this file can read ``x`` ``[N, E]``: float32 rows on the CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 2 and x.stride(1) == 1


def norm(
    library: KernelLibrary,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    eps: float,
    is_rms: bool,
    out_format: Format = Format.F32,
) -> QuantisedRows:
    """Return LayerNorm or RMSNorm of ``x`` ``[N, E]`` float32 in ``out_format``; ``weight`` and ``bias`` ``[E]`` float32."""
    out = torch.empty(x.shape, dtype=_DTYPES[out_format])
    scales = torch.empty(x.shape[0]) if out_format is Format.U8 else None
    call = NormCall(
        rows_of(x),
        rows_of(out, scales),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        eps,
        is_rms,
        x.shape[0],
        x.shape[1],
    )
    library.c.attendant_norm(ctypes.byref(call))
    return QuantisedRows(out, scales)


def embed(
    library: KernelLibrary,
    tokens: torch.Tensor | PackedWeight,
    token_ids: torch.Tensor,
    *,
    width: int,
    positions: tuple[torch.Tensor, torch.Tensor] | None = None,
    types: tuple[torch.Tensor, torch.Tensor | None] | None = None,
) -> torch.Tensor:
    """Return ``[N, E]`` float32: rows ``token_ids`` ``[N]`` int64 of ``tokens``, plus positions and types (table, ids) where given.

    Type ids of None mean type 0 everywhere.
    """
    out = torch.empty(token_ids.shape[0], width)
    position_ids, type_ids = positions and positions[1], types and types[1]
    call = EmbedCall(
        Table(packed=tokens.handle) if isinstance(tokens, PackedWeight) else Table(rows_of(tokens)),
        Table(rows_of(positions[0])) if positions else Table(),
        Table(rows_of(types[0])) if types else Table(),
        positions is not None,
        types is not None,
        token_ids.data_ptr(),
        None if position_ids is None else position_ids.data_ptr(),
        None if type_ids is None else type_ids.data_ptr(),
        out.shape[0],
        width,
        rows_of(out),
    )
    library.c.attendant_embed(ctypes.byref(call))
    return out


def pool(
    library: KernelLibrary, hidden: torch.Tensor, cu_seqlens: torch.Tensor, modes: Sequence[PoolingMode], normalize: Sequence[bool]
) -> torch.Tensor:
    """Return ``[S, E]`` float32, a vector a sequence, of ``hidden`` ``[T, E]`` float32 and ``cu_seqlens`` ``[S + 1]`` int32."""
    out = torch.empty(len(modes), hidden.shape[1])
    mode_codes = np.array([_POOLING_MODES[mode] for mode in modes], dtype=np.uint8)
    is_normalized = np.array(normalize, dtype=np.uint8)
    call = PoolCall(
        rows_of(hidden),
        cu_seqlens.data_ptr(),
        mode_codes.ctypes.data,
        is_normalized.ctypes.data,
        len(modes),
        hidden.shape[1],
        out.data_ptr(),
    )
    library.c.attendant_pool(ctypes.byref(call))
    return out


def finite_rows(library: KernelLibrary, x: torch.Tensor) -> list[bool]:
    """Say of each row of ``x`` ``[N, E]`` float32 whether all its numbers are finite."""
    is_finite = np.empty(x.shape[0], dtype=np.bool_)
    call = FiniteCall(rows_of(x), x.shape[0], x.shape[1], is_finite.ctypes.data)
    library.c.attendant_finite(ctypes.byref(call))
    flags: list[bool] = is_finite.tolist()
    return flags
