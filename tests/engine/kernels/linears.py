"""Linear layers for tests: one call of the kernel on tensors, and what it should give, in float64 from the same numbers.

The oracle takes the weight as it is held (unpacked row by row) and the inputs as the kernel's format holds them, so that
what is left between the two is rounding: of float32 sums, or of nothing but the last steps where sums are integers.
"""

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import gelu, relu, silu

from attendant_engine.kernels.cpu.calls import Activation, Format, LinearCall, Rows, WeightFormat
from attendant_engine.kernels.cpu.library import InstructionSet, KernelLibrary, load_library
from attendant_engine.kernels.cpu.weights import PackedWeight

INSTRUCTION_SETS = (InstructionSet.AVX2, InstructionSet.AVX512, InstructionSet.AVX512_BF16)
WEIGHT_FORMATS = tuple(WeightFormat)
FORMAT_OF_DTYPE = {torch.float32: Format.F32, torch.bfloat16: Format.BF16, torch.uint8: Format.U8}
DTYPE_OF_INPUT = {
    WeightFormat.F32: torch.float32,
    WeightFormat.BF16: torch.bfloat16,
    WeightFormat.I8: torch.uint8,
    WeightFormat.I4: torch.uint8,
}

Parts = list[tuple[torch.Tensor, torch.Tensor | None]]


def sow() -> int:
    """Make torch's numbers new in each run; return the seed, which pytest shows where a test fails."""
    seed = random.SystemRandom().randrange(2**31)
    sys.stdout.write(f"seed {seed}\n")
    torch.manual_seed(seed)
    return seed


def kernel_library() -> KernelLibrary:
    """Return the kernels, which a machine that runs these tests has."""
    library = load_library()
    assert library is not None, "the CPU kernels are not built: run `make`"
    return library


@contextmanager
def forced(instruction_set: InstructionSet, *, num_threads: int = 2) -> Iterator[None]:
    """Run kernels of one instruction set on ``num_threads`` threads, and as before afterwards; skip where the processor lacks it."""
    library = kernel_library()
    before, threads_before = library.instruction_set, library.num_threads
    if not library.force_instruction_set(instruction_set):
        pytest.skip(f"this processor lacks {instruction_set.name}")
    library.set_num_threads(num_threads)
    try:
        yield
    finally:
        library.force_instruction_set(before)
        library.set_num_threads(threads_before)


def pack(weight_format: WeightFormat, parts: Parts, *, is_gated: bool = False) -> PackedWeight:
    """Pack the parts of a weight."""
    return PackedWeight(kernel_library(), weight_format, parts, is_gated=is_gated)


def rows_of(x: torch.Tensor, scales: torch.Tensor | None = None) -> Rows:
    """Describe a matrix of any stride."""
    return Rows(x.data_ptr(), x.stride(0), FORMAT_OF_DTYPE[x.dtype], None if scales is None else scales.data_ptr())


def run(
    packed: PackedWeight,
    x: torch.Tensor,
    *,
    scales: torch.Tensor | None = None,
    row_ids: torch.Tensor | None = None,
    activation: Activation = Activation.NONE,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the kernel into ``out``, or into a new matrix of NaN."""
    num_rows = len(x) if row_ids is None else len(row_ids)
    if out is None:
        out = torch.full((num_rows, packed.num_outputs), torch.nan)
    # Aligned as the executor's arena is, and full of what would be NaN in any format.
    scratch = torch.full((packed.scratch_bytes(num_rows) + 64,), 255, dtype=torch.uint8)
    call = LinearCall(
        weight=packed.handle,
        x=rows_of(x, scales),
        row_ids=None if row_ids is None else row_ids.data_ptr(),
        num_rows=num_rows,
        out=rows_of(out),
        activation=activation,
        residual=None if residual is None else residual.data_ptr(),
        residual_stride=0 if residual is None else residual.stride(0),
        scratch=(scratch.data_ptr() + 63) // 64 * 64,
    )
    kernel_library().c.attendant_linear(ctypes.addressof(call))
    return out


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows as bytes, ``[N, K]`` uint8, and their scales, as ``src/quantize.h`` says: exactly, in float32."""
    magnitude = x.abs().amax(dim=1, keepdim=True)
    bytes_ = (torch.round(x * (torch.tensor(127.0) / magnitude)) + 128).to(torch.uint8)
    return bytes_, (magnitude / 127).flatten()


def as_held(weight_format: WeightFormat, x: torch.Tensor) -> torch.Tensor:
    """Return inputs ``[N, K]`` as the product takes them, float64."""
    if weight_format is WeightFormat.F32:
        return x.double()
    if weight_format is WeightFormat.BF16:
        return x.bfloat16().double()
    bytes_, scales = quantize(x.float())
    return (bytes_.double() - 128) * scales.double()[:, None]


def unpacked(packed: PackedWeight) -> torch.Tensor:
    """Return a weight that is not gated as it is held, ``[N, K]`` float32."""
    return torch.stack([packed.unpack_row(row) for row in range(packed.num_outputs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a layer should give, and how far off each element may be."""

    value: torch.Tensor
    bound: torch.Tensor

    def check(self, out: torch.Tensor, *, rounding: float = 0.0) -> None:
        """Compare, with ``rounding`` relative to the value for an output in a shorter type."""
        error = (out.double() - self.value).abs()
        assert bool((error <= self.bound + rounding * self.value.abs()).all()), f"off by {(error / self.bound).max():.3g} bounds"


def expect(
    weight_format: WeightFormat,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: Activation = Activation.NONE,
) -> Expected:
    """Compute a layer in float64 on the numbers as held. The bound is 1e-5 of the largest sum of magnitudes of a row."""
    held, wide = as_held(weight_format, x), weight.double()
    sums = held @ wide.T + (0 if bias is None else bias.double())
    scale = (held.abs() @ wide.abs().T).amax(dim=1, keepdim=True) + (0 if bias is None else bias.abs().max())
    value = activate(activation, sums)
    steepness = 2 * sums.abs() + 1 if activation is Activation.SQUARED_RELU else 1.2
    return Expected(value=value, bound=1e-5 * scale * steepness + 1e-30)


def activate(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    """Apply an activation by torch, in the type of ``x``."""
    match activation:
        case Activation.NONE:
            return x
        case Activation.GELU:
            return gelu(x)
        case Activation.GELU_TANH:
            return gelu(x, approximate="tanh")
        case Activation.QUICK_GELU:
            return x * torch.sigmoid(1.702 * x)
        case Activation.RELU:
            return relu(x)
        case Activation.SQUARED_RELU:
            return relu(x).square()
        case Activation.SILU:
            return silu(x)
        case Activation.TANH:
            return torch.tanh(x)
