"""Products with adapters beside them (Hu et al. 2021, LoRA), in torch: each row of a step gets what its own adapter adds.

Rows without an adapter are left as they are. The native programs do the same in ``kernels.cpu.low_rank``.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from attendant_engine.layers.packing import Product, pack


class AdapterRows:
    """Which rows of the step that runs belong to which adapter: ``bounds`` as in ``ModelInputs.adapter_bounds``.

    One object is shared by a trunk, which sets it for each step, and all its adapted products.
    """

    def __init__(self) -> None:
        self.bounds: tuple[int, ...] | None = None


class LowRankProduct:
    """x A^T B^T for A ``[rank, in]`` and B ``[out, rank]``."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor) -> None:
        self._down: Product = pack(down, None)
        self._up: Product = pack(up, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` to ``[N, out]``."""
        return self._up(self._down(x))


class AdaptedLinear(nn.Module):
    """A product, and what each adapter adds to it: one entry an adapter, None where it leaves this product alone."""

    def __init__(self, base: nn.Module, added: Sequence[LowRankProduct | None], rows: AdapterRows) -> None:
        super().__init__()
        self.base = base
        self._added = tuple(added)
        self._rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[T, in]`` to ``[T, out]``."""
        out: torch.Tensor = self.base(x)
        if self._rows.bounds is not None:
            for added, (first, last) in zip(self._added, pairwise(self._rows.bounds), strict=True):
                if added is not None and first < last:
                    out[first:last] += added(x[first:last])
        return out
