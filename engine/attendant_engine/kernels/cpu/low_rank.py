"""What adapters add to products (Hu et al. 2021, LoRA): x A^T B^T beside x W^T, and how a pair A, B is packed.

Knows no files and no adapter's name: an adapter is what it adds to which modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.operations import PackedPair
from attendant_engine.kernels.cpu.weights import PackedWeight


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to the product of one module: ``down`` A ``[rank, in]`` and ``up`` B ``[out, rank]`` float32, its scale in B."""

    down: torch.Tensor
    up: torch.Tensor


LowRankDeltas = Mapping[nn.Module, LowRank]
"""One adapter: what it adds to which modules."""


def pack_pair(
    library: KernelLibrary, weight_format: WeightFormat, parts: Sequence[LowRank | None], num_outputs: Sequence[int]
) -> PackedPair | None:
    """Pack what an adapter adds to modules side by side, of ``num_outputs`` each: A one below the other, B along a diagonal.

    None where it adds nothing to any of them.
    """
    found = [part for part in parts if part is not None]
    if not found:
        return None
    down = torch.cat([part.down for part in found])
    up = torch.zeros(sum(num_outputs), len(down))
    row = column = 0
    for part, num_rows in zip(parts, num_outputs, strict=True):
        if part is not None:
            up[row : row + num_rows, column : column + len(part.down)] = part.up
            column += len(part.down)
        row += num_rows
    missing = len(down) % 2  # rows of bfloat16 are to be whole words
    return PackedPair(
        PackedWeight(library, weight_format, [(pad(down, (0, 0, 0, missing)), None)]),
        PackedWeight(library, weight_format, [(pad(up, (0, missing)), None)]),
    )
