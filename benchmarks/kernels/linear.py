"""The 49 products of a GPT-2 124M step (12 layers and the head), ours beside torch's packed oneDNN ones, interleaved in one run.

    python -m benchmarks.kernels.linear [--rows 1,4,16,64,256,1000] [--formats f32,bf16,i8,i4] [--repetitions 7] [--threads 2] [--write]

Weights are 12 different layers, so that every step reads them from memory as a model does. Inputs are in the format that a
norm before the product leaves them in. int4 has no peer in torch that multiplies integers and is set beside int8's.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from attendant_engine.kernels.cpu.calls import Format, LinearCall, Rows, WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.weights import PackedWeight
from benchmarks.results_file import markdown_table, write_results

LAYER_SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
HEAD_SHAPE = (768, 50257)
NUM_LAYERS = 12
HEADING = ("format", "rows", "ms", "GB/s", "GFLOP/s", "torch ms", "ratio to torch", "spread")

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repetition, of ours and of torch's."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """Torch's time over ours, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


class OurProducts:
    """The weights of a step, packed by us."""

    def __init__(self, library: KernelLibrary, weight_format: WeightFormat, weights: list[torch.Tensor]) -> None:
        self._library = library
        self._weights = [PackedWeight(library, weight_format, [(weight, None)]) for weight in weights]
        self.num_bytes = sum(weight.num_bytes for weight in self._weights)

    def step(self, num_rows: int) -> Step:
        """Return a step with ``num_rows`` rows; the head takes at most 64, one a sequence."""
        calls, tensors = [], []
        for weight in self._weights:
            rows = _num_rows(weight.num_outputs, num_rows)
            x, scales = _inputs(weight.weight_format, rows, weight.num_inputs)
            out = torch.empty(rows, weight.num_outputs)
            scratch = torch.empty(weight.scratch_bytes(rows), dtype=torch.uint8)
            tensors += [x, scales, out, scratch]
            calls.append(
                LinearCall(
                    weight=weight.handle,
                    x=Rows(x.data_ptr(), x.shape[1], _FORMATS[x.dtype], scales.data_ptr()),
                    num_rows=rows,
                    out=Rows(out.data_ptr(), out.shape[1], Format.F32),
                    scratch=scratch.data_ptr(),
                )
            )
        addresses, run = [ctypes.addressof(call) for call in calls], self._library.c.attendant_linear

        def run_all(_keep: object = (calls, tensors)) -> None:
            for address in addresses:
                run(address)

        return run_all


class TorchProducts:
    """The same weights in oneDNN's layout; int8 with one scale a tensor of inputs, the only one that it has."""

    def __init__(self, weight_format: WeightFormat, weights: list[torch.Tensor]) -> None:
        self._format = weight_format
        if weight_format in (WeightFormat.I8, WeightFormat.I4):
            self._scales = [weight.abs().amax(dim=1) / 127 for weight in weights]
            integers = [(weight / scale[:, None]).round().to(torch.int8) for weight, scale in zip(weights, self._scales, strict=True)]
            self._packed = [torch.ops.onednn.qlinear_prepack(weight, None) for weight in integers]
        else:
            dtype = torch.float32 if weight_format is WeightFormat.F32 else torch.bfloat16
            self._packed = [torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None) for weight in weights]
        self._shapes = [weight.shape for weight in weights]

    def step(self, num_rows: int) -> Step:
        """Return a step with ``num_rows`` rows."""
        inputs = [
            _inputs(self._format, _num_rows(num_outputs, num_rows), num_inputs)[0][:, :num_inputs]
            for num_outputs, num_inputs in self._shapes
        ]
        if self._format in (WeightFormat.I8, WeightFormat.I4):
            zeros = [torch.zeros(len(scale), dtype=torch.int32) for scale in self._scales]

            def run_integers() -> None:
                for x, weight, scale, zero in zip(inputs, self._packed, self._scales, zeros, strict=True):
                    torch.ops.onednn.qlinear_pointwise(x, 0.01, 128, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")

            return run_integers

        def run_floats() -> None:
            for x, weight in zip(inputs, self._packed, strict=True):
                torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

        return run_floats


_FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16, torch.uint8: Format.U8}


def _num_rows(num_outputs: int, num_rows: int) -> int:
    return min(num_rows, 64) if num_outputs == HEAD_SHAPE[1] else num_rows


def _inputs(weight_format: WeightFormat, num_rows: int, num_inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    scales = torch.full((num_rows,), 0.01)
    if weight_format in (WeightFormat.I8, WeightFormat.I4):
        return torch.randint(1, 256, (num_rows, num_inputs), dtype=torch.uint8), scales
    return torch.randn(num_rows, num_inputs, dtype=torch.float32 if weight_format is WeightFormat.F32 else torch.bfloat16), scales


def measure(ours: Step, theirs: Step, repetitions: int) -> Timing:
    """Time both in turn, after one of each that is not counted."""
    timing = Timing([], [])
    for repetition in range(repetitions + 1):
        for step, seconds in ((ours, timing.ours), (theirs, timing.theirs)):
            begin = time.perf_counter()
            step()
            if repetition > 0:
                seconds.append(time.perf_counter() - begin)
    return timing


def describe(weight_format: WeightFormat, num_rows: int, num_bytes: int, timing: Timing) -> tuple[str, ...]:
    """Return a line of the table."""
    products = sum(_num_rows(n, num_rows) * n * k for k, n in (*(LAYER_SHAPES * NUM_LAYERS), HEAD_SHAPE))
    seconds, ratios = median(timing.ours), timing.ratios
    return (
        weight_format.name.lower(),
        str(num_rows),
        f"{seconds * 1e3:.2f}",
        f"{num_bytes / seconds / 1e9:.1f}",
        f"{2 * products / seconds / 1e9:.0f}",
        f"{median(timing.theirs) * 1e3:.2f}",
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
    )


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,4,16,64,256,1000")
    parser.add_argument("--formats", default="f32,bf16,i8,i4")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    arguments = parser.parse_args()
    library = load_library()
    assert library is not None, "the CPU kernels are not built: run `make`"
    library.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    weights = [torch.randn(n, k) for k, n in (*(LAYER_SHAPES * NUM_LAYERS), HEAD_SHAPE)]
    lines = []
    for name in arguments.formats.split(","):
        weight_format = WeightFormat[name.upper()]
        ours, theirs = OurProducts(library, weight_format, weights), TorchProducts(weight_format, weights)
        for num_rows in (int(rows) for rows in arguments.rows.split(",")):
            timing = measure(ours.step(num_rows), theirs.step(num_rows), arguments.repetitions)
            lines.append(describe(weight_format, num_rows, ours.num_bytes, timing))
            sys.stdout.write("\t".join(lines[-1]) + "\n")
            sys.stdout.flush()
        del ours, theirs
    if arguments.write:
        table = markdown_table(HEADING, lines)
        write_results("kernels-linear", f"python -m benchmarks.kernels.linear --threads {arguments.threads}", [table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
