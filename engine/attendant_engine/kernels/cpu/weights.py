"""A linear layer's weight in the kernels' own layout, packed once; see ``src/weight.h``."""

import ctypes
from collections.abc import Sequence

import torch

from attendant_engine.kernels.cpu.calls import Format, WeightFormat, WeightPart
from attendant_engine.kernels.cpu.library import KernelLibrary

MAX_INT8_INPUTS = 65_536
"""More products of bytes than this could overflow a sum of 32 bits."""

_SOURCE_FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}


class PackedWeight:
    """Owns one packed weight; ``handle`` is its address for the calls.

    ``parts`` are (weight ``[n_i, K]``, bias ``[n_i]`` or None), which come to lie one below the other; a gated weight has
    two of the same shape, gate and up. Sources are float32 or bfloat16 and are not needed afterwards. Raises ``ValueError``
    for a shape that the format cannot hold.
    """

    def __init__(
        self,
        library: KernelLibrary,
        weight_format: WeightFormat,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        *,
        is_gated: bool = False,
    ) -> None:
        weights = [weight.contiguous() for weight, _ in parts]
        biases = [None if bias is None else bias.float().contiguous() for _, bias in parts]
        source_format = _SOURCE_FORMATS[weights[0].dtype]
        self.num_inputs = weights[0].shape[1]
        if weight_format is WeightFormat.I8 and self.num_inputs > MAX_INT8_INPUTS:
            raise ValueError(f"A layer has {self.num_inputs} inputs; sums in int8 take at most {MAX_INT8_INPUTS}.")
        self.num_outputs = weights[0].shape[0] if is_gated else sum(weight.shape[0] for weight in weights)
        self.weight_format = weight_format
        self._library = library
        array = (WeightPart * len(weights))(
            *(
                WeightPart(weight.data_ptr(), None if bias is None else bias.data_ptr(), weight.shape[0])
                for weight, bias in zip(weights, biases, strict=True)
            )
        )
        self._own(
            library.c.attendant_pack_weight(weight_format, source_format, ctypes.addressof(array), len(weights), self.num_inputs, is_gated)
        )

    def _own(self, handle: int | None) -> None:
        if not handle:
            raise MemoryError("There is no memory left for a packed weight.")
        self.handle: int = handle

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, scales and biases included."""
        return int(self._library.c.attendant_weight_bytes(self.handle))

    def scratch_bytes(self, num_rows: int) -> int:
        """Bytes that ``scratch`` of a call with ``num_rows`` rows takes, aligned to 64."""
        return int(self._library.c.attendant_linear_scratch_bytes(self.handle, num_rows))

    @property
    def scratch_row_bytes(self) -> int:
        """Bytes a row with which ``scratch`` is large enough for 64 rows and more."""
        return self.scratch_bytes(64) // 64 + 1

    def unpack_row(self, row: int) -> torch.Tensor:
        """Return one row of the weight as held, ``[K]`` float32."""
        out = torch.empty(self.num_inputs)
        self._library.c.attendant_unpack_row(self.handle, row, out.data_ptr())
        return out

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.c.attendant_free_weight(self.handle)


class LaidOutWeight(PackedWeight):
    """The sizes of a packed weight without its memory: what parts of ``shapes`` ``[n_i, K]`` would take. Computes nothing."""

    def __init__(
        self, library: KernelLibrary, weight_format: WeightFormat, shapes: Sequence[tuple[int, int]], *, is_gated: bool = False
    ) -> None:
        self.num_outputs = shapes[0][0] if is_gated else sum(num_rows for num_rows, _ in shapes)
        self.num_inputs = shapes[0][1]
        self.weight_format = weight_format
        self._library = library
        self._own(library.c.attendant_lay_out_weight(weight_format, self.num_outputs, self.num_inputs, is_gated))
