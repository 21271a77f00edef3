"""Where the time of a native step goes, operation by operation: GPT-2 124M with random weights, decoding.

    python -m benchmarks.kernels.step_profile [--dtype float32] [--quantization none] [--sequences 1,16,64] [--context 192]

A time is the least of all repetitions, operation by operation: what the step takes when nobody disturbs it. ``GB/s`` and
``GFLOP/s`` count what an operation must read and multiply: weights once, keys and values of the whole context.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.attention.registry import cache_block_shape
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.models.native import NativeTrunk
from attendant_engine.weights.loader import load_model
from benchmarks.checkpoints import GPT2_124M, write_gpt2
from benchmarks.results_file import markdown_table

BLOCK_SIZE = 16


def step_inputs(model: LoadedModel, lengths: Sequence[int], num_new: int) -> ModelInputs:
    """Describe a step in which each sequence of ``lengths`` tokens computes its last ``num_new``; the cache is random."""
    config = model.config
    blocks = [-(-length // BLOCK_SIZE) for length in lengths]
    shape = (sum(blocks), *cache_block_shape("native", block_size=BLOCK_SIZE, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim))
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
            LayerCache(torch.randn(shape).to(model.dtype), torch.randn(shape).to(model.dtype)) for _ in range(config.num_layers)
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


def profile(model: LoadedModel, inputs: ModelInputs, repetitions: int) -> tuple[dict[str, tuple[int, float]], float, float]:
    """Return calls and least milliseconds of a step by operation name, and the least and the median of whole steps."""
    assert isinstance(model.trunk, NativeTrunk) and isinstance(model.lm_head, NativeLinear)
    least: list[float] = []
    names: list[str] = []
    whole: list[float] = []
    for _ in range(repetitions):
        begun_s = perf_counter()
        timed = model.trunk.profile(inputs)
        hidden = model.trunk.hidden(inputs.attention.num_sequences)
        head_s = perf_counter()
        model.lm_head(hidden)
        ended_s = perf_counter()
        timed.append(("head", ended_s - head_s))
        whole.append((ended_s - begun_s) * 1e3)
        names = [name for name, _ in timed]
        times = [seconds * 1e3 for _, seconds in timed]
        least = times if not least else [min(pair) for pair in zip(least, times, strict=True)]
    by_name: dict[str, tuple[int, float]] = {}
    for name, milliseconds in zip(names, least, strict=True):
        calls, total = by_name.get(name, (0, 0.0))
        by_name[name] = (calls + 1, total + milliseconds)
    return by_name, min(whole), median(whole)


def main() -> int:
    """Print one table a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quantization", choices=["none", "int8", "int4"], default="none")
    parser.add_argument("--sequences", default="1,16,64")
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
    torch.set_num_threads(1)
    quantization: Literal["none", "int8", "int4"] = arguments.quantization
    with tempfile.TemporaryDirectory() as directory:
        write_gpt2(Path(directory), GPT2_124M)
        model = load_model(
            Path(directory),
            dtype=getattr(torch, arguments.dtype),
            device=torch.device("cpu"),
            attention_backend="native",
            quantization=quantization,
        )
    for num_sequences in map(int, arguments.sequences.split(",")):
        inputs = step_inputs(model, [arguments.context] * num_sequences, arguments.new)
        with torch.inference_mode():
            by_name, least_ms, median_ms = profile(model, inputs, arguments.repetitions)
        total_ms = sum(total for _, total in by_name.values())
        rows = [
            [name, str(calls), f"{total:.3f}", f"{total / calls * 1e3:.1f}", f"{total / total_ms:.1%}"]
            for name, (calls, total) in by_name.items()
        ]
        print(f"\n{num_sequences} sequences: sum {total_ms:.2f} ms, whole step {least_ms:.2f} ms at least, {median_ms:.2f} median\n")
        print(markdown_table(("operation", "calls", "ms", "us a call", "share"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
