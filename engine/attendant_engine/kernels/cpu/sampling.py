"""The kernels that turn logits into tokens and log-probabilities, over rows of float32 logits on the CPU.

Holds the one scratch buffer that they need. Calls run one at a time on the pool of threads, so all models of this
process share it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from attendant_engine.kernels.cpu.calls import LogprobsCall, SampleCall
from attendant_engine.kernels.cpu.library import KernelLibrary, load_library


@dataclass(frozen=True, slots=True)
class Draws:
    """How each row's token is drawn; temperature 0 is greedy and reads nothing else of its row. top-k 0 is off.

    ``uniform`` float64, ``top_k`` int32, the others float32, each contiguous ``[N]``.
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int32]
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    uniform: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """Of each row: the token's log-probability and rank, and the best ids with theirs, of which the first num_top are set."""

    values: list[float]
    ranks: list[int]
    top_ids: list[list[int]]
    top_values: list[list[float]]


class SamplingKernels:
    """The kernels of ``library`` with their scratch memory, which grows to the largest vocabulary seen."""

    def __init__(self, library: KernelLibrary) -> None:
        self._library = library
        self._scratch = torch.empty(0)

    def sample(self, logits: torch.Tensor, draws: Draws | None) -> tuple[list[int], list[bool]]:
        """Choose a token of each row of ``logits`` ``[N, V]`` and say whether the row is finite; all greedily without ``draws``."""
        num_rows, vocab_size = logits.shape
        token_ids, is_finite = np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.bool_)
        scratch = self._scratch if draws is None else self._scratch_for(vocab_size)
        call = SampleCall(
            logits.data_ptr(),
            logits.stride(0),
            num_rows,
            vocab_size,
            *(5 * (None,) if draws is None else _addresses(draws)),
            token_ids.ctypes.data,
            is_finite.ctypes.data,
            scratch.data_ptr(),
        )
        self._library.c.attendant_sample(ctypes.byref(call))
        return token_ids.tolist(), is_finite.tolist()

    def logprobs(self, logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> RowLogprobs:
        """Describe ``token_ids[i]`` and the ``num_top[i]`` best of each row of raw ``logits`` ``[N, V]``."""
        num_rows, vocab_size = logits.shape
        max_top = min(max(num_top, default=0), vocab_size)
        ids, wanted = np.array(token_ids, dtype=np.int64), np.array(num_top, dtype=np.int32)
        values, ranks = np.empty(num_rows, dtype=np.float32), np.empty(num_rows, dtype=np.int32)
        top_ids, top_values = np.zeros((num_rows, max_top), dtype=np.int64), np.zeros((num_rows, max_top), dtype=np.float32)
        scratch = self._scratch_for(vocab_size)
        call = LogprobsCall(
            logits.data_ptr(),
            logits.stride(0),
            num_rows,
            vocab_size,
            ids.ctypes.data,
            wanted.ctypes.data,
            max_top,
            values.ctypes.data,
            ranks.ctypes.data,
            top_ids.ctypes.data,
            top_values.ctypes.data,
            scratch.data_ptr(),
        )
        self._library.c.attendant_logprobs(ctypes.byref(call))
        return RowLogprobs(values.tolist(), ranks.tolist(), top_ids.tolist(), top_values.tolist())

    def _scratch_for(self, vocab_size: int) -> torch.Tensor:
        """Return room for two rows with a vector more a thread: ``vocabulary_scratch`` in ``src/calls.h``."""
        num_floats = self._library.num_threads * 2 * ((vocab_size + 127) // 64 * 64)
        if self._scratch.numel() < num_floats:
            self._scratch = torch.empty(num_floats)
        return self._scratch


@cache
def load_sampling_kernels() -> SamplingKernels | None:
    """Return this process's kernels with their scratch memory, or None where there are none (see ``load_library``)."""
    library = load_library()
    return None if library is None else SamplingKernels(library)


def _addresses(draws: Draws) -> tuple[int, int, int, int, int]:
    return (
        draws.temperature.ctypes.data,
        draws.top_k.ctypes.data,
        draws.top_p.ctypes.data,
        draws.min_p.ctypes.data,
        draws.uniform.ctypes.data,
    )
