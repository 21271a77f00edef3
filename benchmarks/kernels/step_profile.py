"""Where the time of a native step goes, operation by operation: GPT-2 124M with random weights, decoding.

    python -m benchmarks.kernels.step_profile [--dtype float32] [--quantization none] [--kv-cache-dtype int8] [--sequences 1,16,64]

A time is the least of all repetitions, operation by operation: what the step takes when nobody disturbs it. ``GB/s`` and
``GFLOP/s`` count what an operation must read and multiply: packed weights once, keys and values of the whole context. The
last columns set both beside the roofline of the same run: a sum over 256 MB, and a product of 1,024 rows.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.attention.registry import cache_block_shape
from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.kernels.cpu.operations import AttentionOperation, LinearOperation
from attendant_engine.kernels.cpu.weights import PackedWeight
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.models.native import NativeTrunk
from attendant_engine.weights.loader import load_model
from benchmarks.checkpoints import GPT2_124M, write_gpt2
from benchmarks.results_file import markdown_table

BLOCK_SIZE = 16


def step_inputs(model: LoadedModel, lengths: Sequence[int], num_new: int, cache_dtype: torch.dtype) -> ModelInputs:
    """Describe a step in which each sequence of ``lengths`` tokens computes its last ``num_new``; the cache is random."""
    config = model.config
    blocks = [-(-length // BLOCK_SIZE) for length in lengths]
    block = cache_block_shape(
        "native", block_size=BLOCK_SIZE, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=cache_dtype
    )
    shape = (sum(blocks), *block)
    order = iter(torch.randperm(sum(blocks)).tolist())
    table = torch.zeros(len(lengths), max(blocks), dtype=torch.int32)
    for row, count in enumerate(blocks):
        table[row, :count] = torch.tensor([next(order) for _ in range(count)])
    positions = torch.cat([torch.arange(length - num_new, length) for length in lengths])
    rows = torch.arange(len(lengths)).repeat_interleave(num_new)
    slots = table[rows, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    return ModelInputs(
        token_ids=torch.randint(config.vocab_size, (len(positions),)),
        positions=positions,
        layer_caches=tuple(
            LayerCache(_random_cache(shape, cache_dtype), _random_cache(shape, cache_dtype)) for _ in range(config.num_layers)
        ),
        attention=AttentionMetadata(
            cu_seqlens_q=torch.arange(len(lengths) + 1, dtype=torch.int32) * num_new,
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            query_lens=(num_new,) * len(lengths),
            context_lens=tuple(lengths),
            block_table=table,
            slot_mapping=slots,
        ),
    )


def _random_cache(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return random numbers; of int8 ones with the same four bytes everywhere, which are small floats too, where scales stand."""
    if dtype is torch.int8:
        return torch.tensor([3, 7, 11, 60], dtype=torch.int8).repeat(math.prod(shape) // 4).view(shape)
    return torch.randn(shape).to(dtype)


@dataclass(slots=True)
class Entry:
    """All calls of one kind in a step: how many, their least seconds, the bytes that they must read and their operations."""

    calls: int = 0
    seconds: float = 0.0
    num_bytes: float = 0.0
    flops: float = 0.0


def profile(model: LoadedModel, inputs: ModelInputs, repetitions: int) -> tuple[dict[str, Entry], list[float]]:
    """Return an entry a kind of operation, and the seconds of each whole step."""
    trunk, head = model.trunk, model.lm_head
    assert isinstance(trunk, NativeTrunk) and isinstance(head, NativeLinear)
    num_tokens, num_sequences = len(inputs.token_ids), inputs.attention.num_sequences
    assert inputs.layer_caches is not None
    cache_bytes = inputs.layer_caches[0].key.itemsize
    last_rows = inputs.attention.cu_seqlens_q[1:] - 1
    least: list[float] = []
    whole: list[float] = []
    for _ in range(repetitions):
        begun_s = perf_counter()
        timed = trunk.profile(inputs)
        head_s = perf_counter()
        head(trunk.hidden(num_tokens), last_rows)
        ended_s = perf_counter()
        whole.append(ended_s - begun_s)
        times = [*(seconds for _, seconds in timed), ended_s - head_s]
        least = times if not least else [min(pair) for pair in zip(least, times, strict=True)]
    entries: dict[str, Entry] = {}
    for (operation, _), seconds in zip(timed, least[:-1], strict=True):
        entry = entries.setdefault(operation.name, Entry())
        entry.calls, entry.seconds = entry.calls + 1, entry.seconds + seconds
        if isinstance(operation, LinearOperation):
            _count_linear(entry, operation.weight, num_tokens)
        if isinstance(operation, AttentionOperation):
            keys = sum(inputs.attention.context_lens)
            entry.num_bytes += 2 * keys * operation.cache.num_kv_heads * operation.cache.head_dim * cache_bytes
    entries["head"] = Entry(1, least[-1])
    _count_linear(entries["head"], head.weight, num_sequences)
    return entries, whole


def _count_linear(entry: Entry, weight: PackedWeight, num_rows: int) -> None:
    entry.num_bytes += weight.num_bytes
    entry.flops += 2.0 * num_rows * weight.num_inputs * weight.num_outputs


def roofline(library: KernelLibrary, weight_format: WeightFormat) -> tuple[float, float]:
    """Return the bytes a second that are read, by a sum over 256 MB, and the operations a second of a product with 1,024 rows."""
    many = torch.ones(64_000_000)
    product = NativeLinear(library, PackedWeight(library, weight_format, [(torch.randn(3072, 1024), None)]))
    x = torch.randn(1024, 1024)
    read_s = min(_seconds(many.sum) for _ in range(7))
    product_s = min(_seconds(lambda: product(x)) for _ in range(7))
    return many.nbytes / read_s, 2 * 1024 * 1024 * 3072 / product_s


def _seconds(work: Callable[[], object]) -> float:
    begun_s = perf_counter()
    work()
    return perf_counter() - begun_s


def report(entries: dict[str, Entry], peak_bytes_s: float, peak_flops: float) -> str:
    """Lay the entries out as a table."""
    total_s = sum(entry.seconds for entry in entries.values())
    rows = []
    for name, entry in entries.items():
        bytes_s, flops = entry.num_bytes / entry.seconds, entry.flops / entry.seconds
        rows.append(
            [
                name,
                str(entry.calls),
                f"{entry.seconds * 1e3:.3f}",
                f"{entry.seconds / entry.calls * 1e6:.1f}",
                f"{entry.seconds / total_s:.1%}",
                f"{bytes_s / 1e9:.1f}" if bytes_s else "",
                f"{flops / 1e9:.0f}" if flops else "",
                f"{bytes_s / peak_bytes_s:.0%}" if bytes_s else "",
                f"{flops / peak_flops:.0%}" if flops else "",
            ]
        )
    return markdown_table(("operation", "calls", "ms", "us a call", "share", "GB/s", "GFLOP/s", "of reading", "of multiplying"), rows)


def main() -> int:
    """Print one table a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quantization", choices=["none", "int8", "int4"], default="none")
    parser.add_argument("--sequences", default="1,16,64")
    parser.add_argument("--kv-cache-dtype", choices=("float32", "bfloat16", "int8"), help="default: as --dtype")
    parser.add_argument("--new", type=int, default=1, help="tokens that each sequence computes")
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    library = load_library()
    if library is None:
        sys.stderr.write("The CPU kernels are not built here.\n")
        return 1
    library.set_num_threads(arguments.threads)
    quantization: Literal["none", "int8", "int4"] = arguments.quantization
    cache_dtype: torch.dtype = getattr(torch, arguments.kv_cache_dtype or arguments.dtype)
    with tempfile.TemporaryDirectory() as directory:
        write_gpt2(Path(directory), GPT2_124M)
        model = load_model(
            Path(directory),
            dtype=getattr(torch, arguments.dtype),
            device=torch.device("cpu"),
            attention_backend="native",
            quantization=quantization,
        )
    assert isinstance(model.lm_head, NativeLinear)
    torch.set_num_threads(arguments.threads)
    peak_bytes_s, peak_flops = roofline(library, model.lm_head.weight.weight_format)
    torch.set_num_threads(1)
    print(f"reading {peak_bytes_s / 1e9:.1f} GB/s, multiplying {peak_flops / 1e9:.0f} GFLOP/s")
    for num_sequences in map(int, arguments.sequences.split(",")):
        inputs = step_inputs(model, [arguments.context] * num_sequences, arguments.new, cache_dtype)
        with torch.inference_mode():
            entries, whole = profile(model, inputs, arguments.repetitions)
        total_ms = sum(entry.seconds for entry in entries.values()) * 1e3
        least_ms, median_ms = min(whole) * 1e3, median(whole) * 1e3
        print(f"\n{num_sequences} sequences: {total_ms:.2f} ms; whole steps {least_ms:.2f} at least, {median_ms:.2f} median\n")
        print(report(entries, peak_bytes_s, peak_flops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
