"""Gives a model that is laid out on the meta device its weights, one module at a time and only when asked.

Names, shapes and element types are all checked against the files' headers first. Whoever packs a module's weights into
another form can so fill it, pack it and let go of it before the next: no second copy of the model is ever in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import nn

from attendant_engine.config import ModelConfig
from attendant_engine.errors import CheckpointError
from attendant_engine.host_memory import zeros
from attendant_engine.layers.linear import Linear, Share
from attendant_engine.models.registry import BuiltModel
from attendant_engine.weights.checkpoint import read_tensor_headers
from attendant_engine.weights.names import canonical_name, is_ignorable
from attendant_engine.weights.safetensors_files import TensorHeaders, weight_files
from attendant_engine.weights.tensor_reader import READABLE_DTYPES, Span, TensorReader


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor goes: a parameter of a module, its shape there, whether the file holds its transpose, and what of it is ours.

    ``cut_dim`` of the stored shape is what ``share`` cuts, None where all is ours.
    """

    module: nn.Module
    attribute: str
    shape: tuple[int, ...]
    is_transposed: bool
    share: Share | None = None
    cut_dim: int | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that the file must have."""
        shape = list(self.shape[::-1] if self.is_transposed else self.shape)
        if self.cut_dim is not None and self.share is not None:
            shape[self.cut_dim] *= self.share.num_ranks
        return tuple(shape)

    @property
    def spans(self) -> dict[str, tuple[Span, ...]]:
        """The rows or the columns to read, where that is not all."""
        if self.cut_dim is None or self.share is None:
            return {}
        return {("rows", "columns")[self.cut_dim]: self.share.ranges(self.stored_shape[self.cut_dim])}

    @property
    def is_elsewhere(self) -> bool:
        """Whether another rank adds this bias to their sum: the first does."""
        return self.attribute == "bias" and self.share is not None and self.share.of == "inputs" and self.share.rank > 0


class ModelWeights:
    """The weights in ``path`` of the model ``built``, converted to ``dtype`` on ``device`` as they are filled in.

    Raises ``CheckpointError`` with a sentence for everything that the headers show to be wrong.
    """

    def __init__(self, path: Path, built: BuiltModel, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._slots = _slots(built)
        self._stored_names = _check_names_and_shapes(read_tensor_headers(path), self._slots, config)
        self._names_of_module: dict[nn.Module, list[str]] = {}
        for name, slot in self._slots.items():
            self._names_of_module.setdefault(slot.module, []).append(name)
        self._unfilled = set(self._slots)
        self._reader = TensorReader(weight_files(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.__exit__(kind, error, trace)

    @property
    def num_parameters(self) -> int:
        """Elements of all weights in the files, filled or not."""
        return sum(torch.Size(slot.stored_shape).numel() for slot in self._slots.values())

    @property
    def num_own_parameters(self) -> int:
        """Elements of those that this rank has; the same where it is alone."""
        return sum(torch.Size(slot.shape).numel() for slot in self._slots.values())

    def fill(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Read every parameter of ``module`` and of the modules in it into memory of its own; ``dtype`` None is the model's.

        Raises ``CheckpointError`` for values that are not finite, or not any more in ``dtype``.
        """
        for part in module.modules():
            for name in self._names_of_module.get(part, ()):
                slot = self._slots[name]
                weight = None if slot.is_elsewhere else self._read(name, slot, dtype or self._dtype)
                parameter = None if weight is None else nn.Parameter(weight, requires_grad=False)
                slot.module.register_parameter(slot.attribute, parameter)
                self._unfilled.discard(name)

    def check_complete(self, parts: Sequence[nn.Module] | None = None) -> None:
        """Assert that every weight, of ``parts`` or of all, was asked for: a model must not run on memory that nobody filled."""
        wanted = None if parts is None else {module for part in parts for module in part.modules()}
        unfilled = [name for name in self._unfilled if wanted is None or self._slots[name].module in wanted]
        assert not unfilled, f"nobody filled {_some(sorted(unfilled))}"

    def _read(self, name: str, slot: _Slot, dtype: torch.dtype) -> torch.Tensor:
        stored_name = self._stored_names[name]
        weight = zeros(slot.shape, dtype, self._device)
        target = weight.t() if slot.is_transposed else weight
        is_converted = dtype != self._reader.dtype(stored_name)
        for first, rows in self._reader.row_chunks(stored_name, **slot.spans):
            if not _is_finite(rows):
                raise CheckpointError(f"Tensor {name} has values that are not finite; the checkpoint is damaged.")
            part = target[first : first + len(rows)]
            part.copy_(rows)
            if is_converted and not _is_finite(part):
                raise CheckpointError(f"Tensor {name} does not fit into {str(dtype).removeprefix('torch.')}; use a wider dtype.")
        return weight


def _is_finite(rows: torch.Tensor) -> bool:
    return bool(torch.isfinite(torch.stack(torch.aminmax(rows))).all())


def _slots(built: BuiltModel) -> dict[str, _Slot]:
    """Return every parameter to fill under its canonical name."""
    slots: dict[str, _Slot] = {}
    for part in built.modules_with_weights:
        for module_name, module in part.named_modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                name = f"{module_name}.{attribute}" if module_name else attribute
                is_transposed = attribute == "weight" and isinstance(module, Linear) and module.is_transposed_in_checkpoint
                share = module.share if isinstance(module, Linear) else None
                cut_dim = _cut_dim(share, attribute, is_transposed)
                slots[name] = _Slot(module, attribute, tuple(parameter.shape), is_transposed, share, cut_dim)
    return slots


def _cut_dim(share: Share | None, attribute: str, is_transposed: bool) -> int | None:
    """Return the dimension of the stored tensor that a share cuts."""
    if share is None or (attribute == "bias" and share.of == "inputs"):
        return None
    return 0 if attribute == "bias" else int((share.of == "inputs") != is_transposed)


def _check_names_and_shapes(headers: TensorHeaders, slots: Mapping[str, _Slot], config: ModelConfig) -> dict[str, str]:
    """Compare the files' headers with the model; return the stored name of each canonical one."""
    stored_names: dict[str, str] = {}
    for stored_name in headers:
        name = canonical_name(stored_name, config)
        if name in stored_names:
            raise CheckpointError(f"The weights hold {name} twice, with and without its prefix.")
        stored_names[name] = stored_name
    missing = sorted(set(slots) - set(stored_names))
    if missing:
        raise CheckpointError(f"The weights lack {_some(missing)}, which config.json calls for.")
    unexpected = sorted(name for name in set(stored_names) - set(slots) if not is_ignorable(name, config))
    if unexpected:
        raise CheckpointError(f"The weights hold {_some(unexpected)}, which config.json has no place for.")
    for name, slot in slots.items():
        dtype, shape = headers[stored_names[name]]
        if dtype not in READABLE_DTYPES:
            raise CheckpointError(f"Tensor {name} is {dtype}; supported are {', '.join(READABLE_DTYPES)}.")
        if shape != slot.stored_shape:
            raise CheckpointError(f"Tensor {name} has shape {list(shape)}; config.json calls for {list(slot.stored_shape)}.")
    return stored_names


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
