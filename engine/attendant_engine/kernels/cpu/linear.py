"""One linear layer by itself, over rows of any tensor: what the heads are made of."""

import ctypes

import torch

from attendant_engine.kernels.cpu.arena import round_up
from attendant_engine.kernels.cpu.calls import Activation, Format, LinearCall, Rows
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.weights import PackedWeight


class NativeLinear:
    """activation(x W^T + b) into a buffer of its own, which grows to the most rows seen and which the next call overwrites."""

    def __init__(self, library: KernelLibrary, weight: PackedWeight, activation: Activation = Activation.NONE) -> None:
        self._library = library
        self.weight = weight
        self._out = torch.empty(0, weight.num_outputs)
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._call = LinearCall(weight=weight.handle, activation=activation)

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, in]`` float32, or the rows ``row_ids`` ``[N]`` int32 of it, to ``[N, out]`` float32."""
        assert hidden.dtype is torch.float32 and hidden.stride(1) == 1, "rows are float32, without gaps"
        assert row_ids is None or (row_ids.dtype is torch.int32 and row_ids.is_contiguous()), "row ids are packed int32"
        num_rows = hidden.shape[0] if row_ids is None else row_ids.shape[0]
        if num_rows > self._out.shape[0]:
            with torch.inference_mode(False):
                self._out = torch.empty(num_rows, self.weight.num_outputs)
                self._scratch = torch.empty(self.weight.scratch_bytes(num_rows) + 64, dtype=torch.uint8)
        call = self._call
        call.x = Rows(hidden.data_ptr(), hidden.stride(0), Format.F32, None)
        call.row_ids = None if row_ids is None else row_ids.data_ptr()
        call.num_rows = num_rows
        call.out = Rows(self._out.data_ptr(), self._out.stride(0), Format.F32, None)
        call.scratch = round_up(self._scratch.data_ptr(), 64)
        self._library.c.attendant_linear(ctypes.addressof(call))
        return self._out[:num_rows]
