"""A trunk in torch with adapters put into it by the names of its modules; the family's file knows nothing of them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from attendant_engine.kernels.cpu.low_rank import LowRank, LowRankDeltas
from attendant_engine.layers.adapters import AdaptedLinear, AdapterRows, LowRankProduct
from attendant_engine.models.base import ModelInputs
from attendant_engine.models.registry import BuiltModel


class AdaptedTrunk(nn.Module):
    """A trunk whose products look up in ``rows`` which adapter a row has."""

    def __init__(self, trunk: nn.Module, rows: AdapterRows) -> None:
        super().__init__()
        self.trunk = trunk
        self._rows = rows

    def forward(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]``."""
        self._rows.bounds = inputs.adapter_bounds
        out: torch.Tensor = self.trunk(inputs)
        return out


def adapt(built: BuiltModel, adapters: Sequence[LowRankDeltas], *, dtype: torch.dtype, device: torch.device) -> BuiltModel:
    """Return ``built``, which is filled and packed, with what the adapters add to its trunk."""
    if not adapters:
        return built
    rows = AdapterRows()
    for name, module in list(built.trunk.named_modules()):
        added = [deltas.get(module) for deltas in adapters]
        if any(delta is not None for delta in added):
            products = [None if delta is None else _product(delta, dtype, device) for delta in added]
            built.trunk.set_submodule(name, AdaptedLinear(module, products, rows))
    return replace(built, trunk=AdaptedTrunk(built.trunk, rows))


def _product(delta: LowRank, dtype: torch.dtype, device: torch.device) -> LowRankProduct:
    return LowRankProduct(delta.down.to(device, dtype), delta.up.to(device, dtype))
