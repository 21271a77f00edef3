"""One embedding a sequence from its hidden states: mean, first or last token; of length one if asked.

One kernel call serves the CPU; the torch code serves other devices.
"""

import torch

from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.kernels.cpu.rows import can_serve
from attendant_engine.kernels.cpu.rows import pool as native_pool
from attendant_engine.types import PoolingMode


class Pooling:
    """Pools packed sequences. Has no weights; the defaults are the checkpoint's, and None where it names none."""

    def __init__(self, default_pooling: PoolingMode | None, default_normalize: bool) -> None:
        self.default_pooling = default_pooling
        self.default_normalize = default_normalize

    def __call__(
        self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, pooling: tuple[PoolingMode, ...], normalize: tuple[bool, ...]
    ) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` int32 to ``[S, E]`` float32; one pooling and one normalize flag a sequence.

        Sums are in float32, each sequence by itself, so company in the batch changes nothing.
        """
        library = load_library()
        if library is not None and can_serve(hidden) and cu_seqlens.dtype == torch.int32:
            return native_pool(library, hidden, cu_seqlens, pooling, normalize)
        bounds = cu_seqlens.tolist()
        pooled = [_pool(hidden[first:last].float(), mode) for first, last, mode in zip(bounds[:-1], bounds[1:], pooling, strict=True)]
        vectors = [
            torch.nn.functional.normalize(vector, dim=0) if is_normalized else vector
            for vector, is_normalized in zip(pooled, normalize, strict=True)
        ]
        return torch.stack(vectors)


def _pool(hidden: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    if mode == "mean":
        return hidden.mean(dim=0)
    return hidden[0] if mode == "cls" else hidden[-1]
