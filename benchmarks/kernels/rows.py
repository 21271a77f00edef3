"""Sampling, log-probabilities, norms and pooling: the kernels beside torch, interleaved in one run.

    python -m benchmarks.kernels.rows [--repetitions 9] [--threads 2] [--write]

Each side's turn begins with calls that are not counted, so that neither pays for the other's threads still spinning or for
a cold cache. The torch side is the engine's own code for other devices.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from attendant_engine.decoding.logprobs import describe_in_torch
from attendant_engine.decoding.truncation import truncate
from attendant_engine.kernels.cpu.calls import Format
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.rows import norm, pool
from attendant_engine.kernels.cpu.sampling import Draws, SamplingKernels
from attendant_engine.types import PoolingMode, SamplingParams
from benchmarks.results_file import markdown_table, write_results

VOCAB_SIZE = 50_257
HEADING = ("what", "rows", "ms", "torch ms", "ratio to torch", "spread")
NUM_UNCOUNTED, NUM_COUNTED = 3, 5

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """The same work done by the kernels and by torch."""

    name: str
    num_rows: int
    ours: Work
    theirs: Work


def sampling_cases(library: KernelLibrary, num_rows: int) -> Iterator[Case]:
    """Yield greedy, drawn and truncated sampling of ``num_rows`` rows, and their log-probabilities."""
    kernels = SamplingKernels(library)
    logits = torch.randn(num_rows, VOCAB_SIZE) * 2
    yield Case("greedy", num_rows, lambda: kernels.sample(logits, None), lambda: (logits.argmax(dim=-1), logits.sum(dim=-1).isfinite()))
    for params in (
        SamplingParams(),
        SamplingParams(top_k=50),
        SamplingParams(top_k=50, top_p=0.9),
        SamplingParams(top_p=0.9),
        SamplingParams(min_p=0.05),
    ):
        yield _drawn_case(kernels, logits, params)
    token_ids, num_top = [1] * num_rows, [5] * num_rows
    yield Case(
        "log-probabilities, 5 best",
        num_rows,
        lambda: kernels.logprobs(logits, token_ids, num_top),
        lambda: describe_in_torch(logits, token_ids, num_top),
    )


def _drawn_case(kernels: SamplingKernels, logits: torch.Tensor, params: SamplingParams) -> Case:
    num_rows = logits.shape[0]
    uniform = torch.rand(num_rows, 1, dtype=torch.float64)
    draws = Draws(
        temperature=np.ones(num_rows, dtype=np.float32),
        top_k=np.full(num_rows, params.top_k, dtype=np.int32),
        top_p=np.full(num_rows, params.top_p, dtype=np.float32),
        min_p=np.full(num_rows, params.min_p, dtype=np.float32),
        uniform=uniform.squeeze(-1).numpy(),
    )

    def draw_in_torch() -> torch.Tensor:
        kept = truncate(logits / 1.0, [params] * num_rows)
        cumulative = kept.softmax(dim=-1).double().cumsum(dim=-1)
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)

    asked = {"top-k": params.top_k, "top-p": params.top_p if params.top_p < 1 else 0, "min-p": params.min_p}
    name = ", ".join(["drawn", *(f"{option} {value}" for option, value in asked.items() if value)])
    return Case(name, num_rows, lambda: kernels.sample(logits, draws), draw_in_torch)


def norm_cases(library: KernelLibrary, num_rows: int) -> Iterator[Case]:
    """Yield LayerNorm into each format, and RMSNorm, of ``num_rows`` rows of 768."""
    x, weight, bias = torch.randn(num_rows, 768), torch.randn(768), torch.randn(768)

    def layer_norm() -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (768,), weight, bias, 1e-5)

    theirs: dict[Format, Work] = {
        Format.F32: layer_norm,
        Format.BF16: lambda: layer_norm().bfloat16(),
        Format.U8: lambda: _quantise(layer_norm()),
    }
    for out_format, work in theirs.items():
        yield Case(
            f"LayerNorm to {out_format.name.lower()}",
            num_rows,
            lambda out_format=out_format: norm(library, x, weight, bias, eps=1e-5, is_rms=False, out_format=out_format),  # type: ignore[misc]
            work,
        )
    yield Case(
        "RMSNorm to f32",
        num_rows,
        lambda: norm(library, x, weight, None, eps=1e-5, is_rms=True),
        lambda: torch.nn.functional.rms_norm(x, (768,), weight, 1e-5),
    )


def _quantise(x: torch.Tensor) -> torch.Tensor:
    return (x * (127 / x.abs().amax(dim=-1, keepdim=True))).round().add(128).to(torch.uint8)


def pooling_case(library: KernelLibrary, num_sequences: int, num_tokens: int) -> Case:
    """Return the mean of ``num_sequences`` sequences of ``num_tokens`` tokens of 384, of length one."""
    hidden = torch.randn(num_sequences * num_tokens, 384)
    cu_seqlens = torch.arange(0, num_sequences * num_tokens + 1, num_tokens, dtype=torch.int32)
    modes: list[PoolingMode] = ["mean"] * num_sequences
    normalize = [True] * num_sequences
    return Case(
        f"mean of {num_tokens} tokens",
        num_sequences,
        lambda: pool(library, hidden, cu_seqlens, modes, normalize),
        lambda: torch.stack(
            [torch.nn.functional.normalize(part.mean(dim=0), dim=0) for part in hidden.view(num_sequences, num_tokens, 384)]
        ),
    )


def measure(case: Case, repetitions: int) -> tuple[str, ...]:
    """Time both sides in turn and return a line of the table."""
    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(_time_turn(case.ours))
        theirs.append(_time_turn(case.theirs))
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return (
        case.name,
        str(case.num_rows),
        f"{median(ours) * 1e3:.3f}",
        f"{median(theirs) * 1e3:.3f}",
        f"{median(ratios):.1f}",
        f"{min(ratios):.1f}-{max(ratios):.1f}",
    )


def _time_turn(work: Work) -> float:
    """Return the median seconds of the counted calls of one turn."""
    seconds = []
    for call in range(NUM_UNCOUNTED + NUM_COUNTED):
        begin = time.perf_counter()
        work()
        if call >= NUM_UNCOUNTED:
            seconds.append(time.perf_counter() - begin)
    return median(seconds)


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    arguments = parser.parse_args()
    library = load_library()
    assert library is not None, "the CPU kernels are not built: run `make`"
    library.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    cases = [
        *(case for num_rows in (1, 64) for case in sampling_cases(library, num_rows)),
        *(case for num_rows in (1, 64, 1000) for case in norm_cases(library, num_rows)),
        pooling_case(library, 1, 256),
        pooling_case(library, 32, 256),
    ]
    lines = []
    for case in cases:
        lines.append(measure(case, arguments.repetitions))
        sys.stdout.write("\t".join(lines[-1]) + "\n")
        sys.stdout.flush()
    if arguments.write:
        table = markdown_table(HEADING, lines)
        write_results("kernels-rows", f"python -m benchmarks.kernels.rows --threads {arguments.threads}", [table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
