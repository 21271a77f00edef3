"""Matrix products with weights: ``[*, in] -> [*, out]``, weights always held ``[out, in]``; of a rank, its share of them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import linear

from attendant_engine.kernels.cpu.calls import WeightFormat
from attendant_engine.layers.packing import Product, pack
from attendant_engine.rank_group import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of a stored weight ``[out, in]`` a rank holds: an equal piece of its outputs, or of its inputs.

    Outputs may be ``num_sections`` of equal size side by side (queries, keys, values), of each of which a rank has a piece.
    """

    of: Literal["outputs", "inputs"]
    rank: int
    num_ranks: int
    num_sections: int = 1

    def ranges(self, size: int) -> tuple[tuple[int, int], ...]:
        """Return first and last (not included) of each piece in ``size`` stored outputs or inputs."""
        section = size // self.num_sections
        piece = section // self.num_ranks
        firsts = [index * section + self.rank * piece for index in range(self.num_sections)]
        return tuple((first, first + piece) for first in firsts)


class Linear(nn.Module):
    """y = x W^T + b, with uninitialised ``weight`` ``[out, in]`` and ``bias`` ``[out]`` for a loader to fill.

    ``share`` says which part of the checkpoint's weight that is, None: all. With ``ranks`` y is the sum over them, each of which
    has some of the inputs.
    """

    is_transposed_in_checkpoint = False

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.share: Share | None = None
        self.ranks: Ranks | None = None
        self._product: Product | None = None

    def pack(self, weight_format: WeightFormat | None = None) -> None:
        """Hold the filled weight the fastest way there is and let go of ``weight``; inputs are then ``[N, in]``.

        A ``weight_format`` shorter than the weight's own takes the native CPU kernels; ``RuntimeError`` where there are none.
        """
        self._product = pack(self.weight, self.bias, weight_format)
        self.register_parameter("weight", None)
        if self.bias is not None:
            self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[*, out]``."""
        y = linear(x, self.weight, self.bias) if self._product is None else self._product(x)
        return y if self.ranks is None else self.ranks.sum(y)


class Conv1D(Linear):
    """A ``Linear`` whose checkpoint holds the weight ``[in, out]``, as GPT-2's do.

    The loader transposes it once, so that a decode step is an ordinary product.
    """

    is_transposed_in_checkpoint = True

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=True)
