"""Attention over the paged cache, ours beside torch's ``scaled_dot_product_attention``, interleaved in one run.

    python -m benchmarks.kernels.attention [--cases decode-64,prefill-1000] [--dtypes bfloat16] [--repetitions 7] [--threads 2] [--write]

Every layer has keys and values of its own, so that a step reads them from memory as a model does. Torch gets them dense and
in order, without blocks, a table or padding: what a real batch would have to gather first. Bandwidth is set beside what
plain reads reach in the same run. A product with a key or a value counts where it is seen: half of a square if causal.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn.functional import scaled_dot_product_attention

from attendant_engine.kernels.cpu.cache_layout import CACHE_FORMATS, elements_per_token
from attendant_engine.kernels.cpu.calls import AttentionCall, CacheView, Format, Rows
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library
from benchmarks.peers.engines.roofline import Roofline
from benchmarks.results_file import markdown_table, write_results

HEADING = ("case", "cache", "ms a layer", "GB/s", "of read bandwidth", "GFLOP/s", "torch ms", "ratio to torch", "spread")
BLOCK_SIZE = 16

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """S sequences with ``num_queries`` new tokens each and ``num_keys`` in all."""

    name: str
    num_sequences: int
    num_queries: int
    num_keys: int
    num_heads: int = 12
    num_kv_heads: int = 12
    head_dim: int = 64
    num_layers: int = 1
    is_causal: bool = True

    @property
    def num_flops(self) -> int:
        """Multiplications and additions of a layer."""
        seen = self.num_queries * self.num_keys
        if self.is_causal:
            seen -= self.num_queries * (self.num_queries - 1) // 2
        return 4 * self.num_sequences * self.num_heads * self.head_dim * seen

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of a layer."""
        return 2 * self.num_sequences * self.num_keys * self.num_kv_heads * self.head_dim * dtype.itemsize


CASES = (
    Case(name="decode-1", num_sequences=1, num_queries=1, num_keys=192, num_layers=48),
    Case(name="decode-16", num_sequences=16, num_queries=1, num_keys=192, num_layers=12),
    Case(name="decode-64", num_sequences=64, num_queries=1, num_keys=192, num_layers=6),
    Case(name="decode-64 grouped", num_sequences=64, num_queries=1, num_keys=192, num_kv_heads=4, num_layers=12),
    Case(name="decode-1 of 8192 grouped", num_sequences=1, num_queries=1, num_keys=8192, num_kv_heads=4, num_layers=12),
    Case(name="verify-4 x 16", num_sequences=16, num_queries=4, num_keys=192, num_layers=12),
    Case(name="prefill-128", num_sequences=1, num_queries=128, num_keys=128),
    Case(name="prefill-1000", num_sequences=1, num_queries=1000, num_keys=1000),
    Case(name="prefill-4096 grouped", num_sequences=1, num_queries=4096, num_keys=4096, num_kv_heads=4),
    Case(name="texts 32 x 32", num_sequences=32, num_queries=32, num_keys=32, head_dim=32, is_causal=False),
    Case(name="texts 32 x 256", num_sequences=32, num_queries=256, num_keys=256, head_dim=32, is_causal=False),
)


def our_layers(library: KernelLibrary, case: Case, dtype: torch.dtype) -> Step:
    """Return a step over all layers, whose blocks are scattered."""
    blocks_each = -(-case.num_keys // BLOCK_SIZE)
    num_blocks = case.num_sequences * blocks_each
    table = torch.randperm(num_blocks).int().view(case.num_sequences, blocks_each)
    num_rows, width = case.num_sequences * case.num_queries, case.num_heads * case.head_dim
    q, out = torch.randn(num_rows, width), torch.empty(num_rows, width)
    starts = torch.arange(0, num_rows + 1, case.num_queries, dtype=torch.int32)
    lens = torch.full((case.num_sequences,), case.num_keys, dtype=torch.int32)
    elements = BLOCK_SIZE * elements_per_token(case.num_kv_heads, case.head_dim, dtype)
    caches = [torch.randn(2, num_blocks, elements).to(dtype) for _ in range(case.num_layers)]
    calls = [
        AttentionCall(
            cache=CacheView(cache[0].data_ptr(), cache[1].data_ptr(), CACHE_FORMATS[dtype], BLOCK_SIZE, case.num_kv_heads, case.head_dim),
            q=q.data_ptr(),
            q_stride=width,
            num_heads=case.num_heads,
            num_sequences=case.num_sequences,
            cu_seqlens_q=starts.data_ptr(),
            seq_lens=lens.data_ptr(),
            block_table=table.data_ptr(),
            block_table_stride=blocks_each,
            is_causal=case.is_causal,
            scale=case.head_dim**-0.5,
            out=Rows(out.data_ptr(), width, Format.F32, None),
        )
        for cache in caches
    ]
    addresses, attend = [ctypes.addressof(call) for call in calls], library.c.attendant_attention

    def run(_keep: object = (table, q, out, starts, lens, caches, calls)) -> None:
        for address in addresses:
            attend(address)

    return run


def torch_layers(case: Case, dtype: torch.dtype) -> Step:
    """Return the same with dense keys and values ``[S, K, C, D]``."""
    q = torch.randn(case.num_sequences, case.num_heads, case.num_queries, case.head_dim, dtype=dtype)
    shape = (2, case.num_sequences, case.num_kv_heads, case.num_keys, case.head_dim)
    caches = [torch.randn(shape).to(dtype) for _ in range(case.num_layers)]
    is_square = case.is_causal and case.num_queries == case.num_keys
    # Rows of one token see every key; a few rows would need a mask, which is left out in torch's favour.
    is_grouped = case.num_kv_heads != case.num_heads

    def run() -> None:
        for cache in caches:
            scaled_dot_product_attention(q, cache[0], cache[1], is_causal=is_square, enable_gqa=is_grouped)

    return run


def measure(ours: Step, theirs: Step, repetitions: int) -> tuple[list[float], list[float]]:
    """Time both in turn, after one of each that is not counted; return the seconds of each."""
    timings: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 1):
        for step, seconds in zip((ours, theirs), timings, strict=True):
            begin = time.perf_counter()
            step()
            if repetition > 0:
                seconds.append(time.perf_counter() - begin)
    return timings


def describe(case: Case, dtype: torch.dtype, read_gb_per_s: float, ours: list[float], theirs: list[float]) -> tuple[str, ...]:
    """Return a line of the table."""
    seconds, ratios = median(ours) / case.num_layers, [t / o for t, o in zip(theirs, ours, strict=True)]
    gb_per_s = case.num_bytes(dtype) / seconds / 1e9
    return (
        case.name,
        str(dtype).removeprefix("torch."),
        f"{seconds * 1e3:.3f}",
        f"{gb_per_s:.1f}",
        # Keys and values that are read again and again come from nearer.
        f"{gb_per_s / read_gb_per_s:.0%}" if case.num_queries == 1 else "-",
        f"{case.num_flops / seconds / 1e9:.0f}",
        f"{median(theirs) / case.num_layers * 1e3:.3f}",
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
    )


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    arguments = parser.parse_args()
    library = load_library()
    assert library is not None, "the CPU kernels are not built: run `make`"
    library.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    roofline = Roofline()
    read_gb_per_s = roofline.measure("dram", arguments.threads)
    lines = []
    for case in (case for case in CASES if case.name in arguments.cases.split(",")):
        for name in arguments.dtypes.split(","):
            dtype: torch.dtype = getattr(torch, name)
            ours, theirs = measure(our_layers(library, case, dtype), torch_layers(case, dtype), arguments.repetitions)
            read_gb_per_s = max(read_gb_per_s, roofline.measure("dram", arguments.threads))
            lines.append(describe(case, dtype, read_gb_per_s, ours, theirs))
            sys.stdout.write("\t".join(lines[-1]) + "\n")
            sys.stdout.flush()
    if arguments.write:
        command = f"python -m benchmarks.kernels.attention --threads {arguments.threads}"
        note = f"Plain reads of memory on as many threads: {read_gb_per_s:.1f} GB/s."
        write_results("kernels-attention", command, [markdown_table(HEADING, lines), note])
    return 0


if __name__ == "__main__":
    sys.exit(main())
