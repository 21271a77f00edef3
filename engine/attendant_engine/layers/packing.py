"""Products with weights that are laid out once at load: what makes them read memory at full rate on a CPU.

The native kernels where they are built: a row's bits then do not depend on the rows beside it. Else oneDNN's own blocks,
by the operators that torch's compiler emits for frozen weights (1.6 to 2.8 times ``torch.nn.functional.linear`` in float32
at 1 to 16 rows). Anything else, on any device, is the plain product.
"""

import ctypes
from typing import Protocol, cast

import torch
from torch.nn.functional import linear

from attendant_engine.kernels.cpu.calls import Format, LinearCall, Rows, WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.weights import PackedWeight

_NATIVE_FORMATS = {torch.float32: (Format.F32, WeightFormat.F32), torch.bfloat16: (Format.BF16, WeightFormat.BF16)}


class Product(Protocol):
    """x W^T + b for one weight and bias, however they are held."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` to ``[N, out]``, in the dtype of ``x``."""
        ...


class PlainWeight:
    """A weight ``[out, in]`` and a bias ``[out]`` or None as they are, on any device and in any dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` to ``[N, out]``."""
        return linear(x, self._weight, self._bias)


class OneDnnWeight:
    """A weight ``[out, in]`` on a CPU, copied into oneDNN's layout; takes as many bytes as before, but for padding."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` to ``[N, out]``."""
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], ""))


class NativeWeight:
    """A float32 or bfloat16 weight ``[out, in]`` in the native kernels' layout, as it is or shorter.

    Every row's result is the same bits alone and among any others, on any number of threads.
    """

    def __init__(
        self, library: KernelLibrary, weight: torch.Tensor, bias: torch.Tensor | None, weight_format: WeightFormat | None = None
    ) -> None:
        self._format, native_format = _NATIVE_FORMATS[weight.dtype]
        self._dtype = weight.dtype
        self._packed = PackedWeight(library, native_format if weight_format is None else weight_format, [(weight, bias)])
        self._run = library.c.attendant_linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` to ``[N, out]``."""
        packed = self._packed
        # Bytes are made of float32 rows alone; of bfloat16 this is exact.
        x = (x.float() if packed.weight_format in (WeightFormat.I8, WeightFormat.I4) else x).contiguous()
        out = torch.empty(x.shape[0], packed.num_outputs, dtype=self._dtype)
        scratch = torch.empty(packed.scratch_bytes(x.shape[0]), dtype=torch.uint8)
        call = LinearCall(
            weight=packed.handle,
            x=Rows(x.data_ptr(), packed.num_inputs, _NATIVE_FORMATS[x.dtype][0]),
            num_rows=x.shape[0],
            out=Rows(out.data_ptr(), packed.num_outputs, self._format),
            scratch=scratch.data_ptr(),
        )
        self._run(ctypes.addressof(call))
        return out


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether this build and machine have a packed product for ``dtype`` on ``device``."""
    return _native_library(dtype, device) is not None or _can_pack_by_onednn(dtype, device)


def pack(weight: torch.Tensor, bias: torch.Tensor | None, weight_format: WeightFormat | None = None) -> Product:
    """Return the best product there is with ``weight`` ``[out, in]`` and ``bias`` ``[out]``.

    With a ``weight_format`` it is held in that, which takes the native kernels: ``RuntimeError`` where there are none.
    """
    library = _native_library(weight.dtype, weight.device)
    if library is not None:
        return NativeWeight(library, weight, bias, weight_format)
    if weight_format is not None:
        raise RuntimeError(f"A weight in {weight_format.name.lower()} takes the native CPU kernels, which are not available here.")
    return OneDnnWeight(weight, bias) if _can_pack_by_onednn(weight.dtype, weight.device) else PlainWeight(weight, bias)


def _native_library(dtype: torch.dtype, device: torch.device) -> KernelLibrary | None:
    return load_library() if device.type == "cpu" and dtype in _NATIVE_FORMATS else None


def _can_pack_by_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
