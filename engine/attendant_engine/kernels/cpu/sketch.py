"""A program without weights: what it will take, before any is read. The operations are those that the families say."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.program import ProgramBuilder
from attendant_engine.kernels.cpu.weights import LaidOutWeight, PackedWeight


class ProgramSketch(ProgramBuilder):
    """Takes the operations of a model on the meta device as ``ProgramBuilder`` does. ``weight_bytes`` is as after packing."""

    def __init__(
        self,
        library: KernelLibrary,
        *,
        dtype: torch.dtype,
        weight_format: WeightFormat,
        shared_table: nn.Module | None = None,
        shared_format: WeightFormat | None = None,
    ) -> None:
        super().__init__(
            library,
            dtype=dtype,
            weight_format=weight_format,
            fill=lambda module, dtype: None,
            shared_table=shared_table,
            shared_format=shared_format,
        )

    @property
    def row_bytes(self) -> int:
        """Memory of one packed token in every buffer of the program together."""
        self._choose_formats()
        return self._place_values()[1]

    def _packed(self, modules: Sequence[nn.Module], weight_format: WeightFormat, *, is_gated: bool) -> PackedWeight:
        shapes = [cast(tuple[int, int], tuple(cast(torch.Tensor, module.weight).shape)) for module in modules]
        return LaidOutWeight(self._library, weight_format, shapes, is_gated=is_gated)
