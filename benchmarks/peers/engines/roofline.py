"""The machine's own limits, measured between the engines: DRAM reads, and products by type, oneDNN's packed and our own.

Bandwidth is the best of a few passes over a buffer of 1 GiB, far beyond the last cache, with and without software
prefetch; a product's rate is the best over sizes like those of the models and one large square. Runs in the main
virtual environment.
"""

import ctypes
import subprocess
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.engines.base import Setup
from benchmarks.peers.engines.own_products import own_product
from benchmarks.peers.environment import HOME, ROOT

_BUFFER_BYTES = 1 << 30
_PASSES = 4
_ROUNDS = 8
_SIZES = ((1024, 768, 3072), (1024, 3072, 768), (2048, 2048, 2048))


class Roofline:
    """Limits of this machine; the buffer is allocated when it is first read."""

    def __init__(self) -> None:
        self._library = _build()
        self._buffer: ctypes.c_void_p | None = None

    def measure(self, variant: str, num_threads: int) -> float:
        """Return GB/s for ``variant`` "dram", GFLOP/s (or GOP/s) for a product's type."""
        if variant == "dram":
            return self._read_gb_per_s(num_threads)
        torch.set_num_threads(num_threads)
        product = partial(own_product, variant.removeprefix("own ")) if variant.startswith("own ") else _PRODUCTS[variant]
        return max(_rate(product, rows, width, columns) for rows, width, columns in _SIZES)

    def _read_gb_per_s(self, num_threads: int) -> float:
        if self._buffer is None:
            self._buffer = ctypes.c_void_p(self._library.make_buffer(ctypes.c_size_t(_BUFFER_BYTES)))
        sink = ctypes.c_uint64()
        seconds: list[float] = [
            self._library.read_seconds(self._buffer, ctypes.c_size_t(_BUFFER_BYTES), num_threads, is_prefetching, ctypes.byref(sink))
            for _ in range(_PASSES)
            for is_prefetching in (0, 1)
        ]
        return _BUFFER_BYTES / min(seconds) / 1e9


def load(setup: Setup) -> Roofline:
    """Compile the reader."""
    del setup
    return Roofline()


def _build() -> ctypes.CDLL:
    source, library = ROOT / "benchmarks" / "peers" / "read_bandwidth.cpp", HOME / "read_bandwidth.so"
    HOME.mkdir(parents=True, exist_ok=True)
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        flags = ["-std=c++17", "-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fPIC", "-shared", "-pthread"]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.read_seconds.restype = ctypes.c_double
    loaded.make_buffer.restype = ctypes.c_void_p
    return loaded


def _rate(product: Callable[[int, int, int], Callable[[], Tensor]], rows: int, width: int, columns: int) -> float:
    run = product(rows, width, columns)
    run()
    seconds = []
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return 2 * rows * width * columns / min(seconds) / 1e9


def _plain_product(rows: int, width: int, columns: int) -> Callable[[], Tensor]:
    x, weight = torch.randn(rows, width), torch.randn(columns, width)
    return lambda: F.linear(x, weight)


def _float_product(rows: int, width: int, columns: int) -> Callable[[], Tensor]:
    x, weight = torch.randn(rows, width), torch.randn(columns, width)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _bfloat16_product(rows: int, width: int, columns: int) -> Callable[[], Tensor]:
    x, weight = torch.randn(rows, width).bfloat16(), torch.randn(columns, width).bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _int8_product(rows: int, width: int, columns: int) -> Callable[[], Tensor]:
    x = torch.randint(0, 255, (rows, width), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (columns, width), dtype=torch.int8)
    scales, zeros = torch.full((columns,), 0.01), torch.zeros(columns, dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, width])
    return lambda: torch.ops.onednn.qlinear_pointwise(x, 0.02, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


_PRODUCTS = {"float32": _float_product, "bfloat16": _bfloat16_product, "int8": _int8_product, "float32 plain": _plain_product}
