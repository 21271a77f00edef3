"""The rate of our own packed product, from float32 rows to float32 rows, conversion of the rows included."""

from collections.abc import Callable

import torch

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.kernels.cpu.weights import PackedWeight
from benchmarks.peers.engines.base import UnsupportedError

_FORMATS = {"float32": WeightFormat.F32, "bfloat16": WeightFormat.BF16, "int8": WeightFormat.I8, "int4": WeightFormat.I4}


def own_product(precision: str, rows: int, width: int, columns: int) -> Callable[[], torch.Tensor]:
    """Return a call of one product. Raises ``UnsupportedError`` where the kernels are not built or cannot run."""
    library = load_library()
    if library is None:
        raise UnsupportedError("our kernels are not built here or this processor lacks their instructions")
    weight = torch.randn(columns, width)
    linear = NativeLinear(library, PackedWeight(library, _FORMATS[precision], [(weight, None)]))
    x = torch.randn(rows, width)
    return lambda: linear(x)
