"""A checkpoint from its files into memory: every tensor checked, converted and placed one at a time.

The model is laid out on the meta device first, so peak memory is the weights plus one tensor; files are memory-mapped.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from attendant_engine.attention.registry import load_backend
from attendant_engine.config import ModelConfig
from attendant_engine.errors import CheckpointError
from attendant_engine.layers.linear import Linear
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.stats import LoadStats
from attendant_engine.weights.checkpoint import read_model_config, read_tensor_headers
from attendant_engine.weights.names import canonical_name, is_ignorable
from attendant_engine.weights.safetensors_files import digest, read_header, weight_files

_WEIGHT_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor goes: a parameter of a module, and whether the file holds its transpose."""

    module: nn.Module
    attribute: str
    is_transposed: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that the file must have."""
        shape = tuple(self.module.get_parameter(self.attribute).shape)
        return shape[::-1] if self.is_transposed else shape


def load_model(path: Path, *, dtype: torch.dtype, device: torch.device, attention_backend: str) -> LoadedModel:
    """Load the checkpoint in ``path``, converted to ``dtype`` on ``device``.

    ``attention_backend`` is a name of ``attention.registry`` or "auto". Raises ``CheckpointError`` with a sentence for
    everything that can be wrong with the directory or a tensor in it.
    """
    started_s = time.perf_counter()
    config = read_model_config(path)
    with torch.device("meta"):
        built = build_model(config, load_backend(attention_backend, device))
    configured_s = time.perf_counter()
    slots = _slots(built)
    _check_names_and_shapes(path, slots, config)
    for name, tensor in _stored_tensors(path, config):
        if name in slots:
            _fill(slots[name], name, tensor, dtype, device)
    for module in built.modules_with_weights:
        module.to(device).eval()
    weights = [parameter for module in built.modules_with_weights for parameter in module.parameters()]
    num_parameters = sum(weight.numel() for weight in weights)
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    del weights  # packing lets go of each as it is copied
    built.pack()
    return LoadedModel(
        config=config,
        trunk=built.trunk,
        dtype=dtype,
        device=device,
        digest=digest(weight_files(path)),
        num_parameters=num_parameters,
        lm_head=built.lm_head,
        pooling_head=built.pooling_head,
        classification_head=built.classification_head,
        load_stats=LoadStats(
            phase_s={"config": configured_s - started_s, "weights": time.perf_counter() - configured_s},
            weight_bytes=weight_bytes,
        ),
    )


def _slots(built: BuiltModel) -> dict[str, _Slot]:
    """Return every parameter to fill under its canonical name."""
    slots: dict[str, _Slot] = {}
    for part in built.modules_with_weights:
        for module_name, module in part.named_modules():
            for attribute, _ in module.named_parameters(recurse=False):
                name = f"{module_name}.{attribute}" if module_name else attribute
                is_transposed = attribute == "weight" and isinstance(module, Linear) and module.is_transposed_in_checkpoint
                slots[name] = _Slot(module, attribute, is_transposed)
    return slots


def _check_names_and_shapes(path: Path, slots: dict[str, _Slot], config: ModelConfig) -> None:
    """Compare the files' headers with the model, before any weight is read."""
    headers = {}
    for stored_name, header in read_tensor_headers(path).items():
        name = canonical_name(stored_name, config)
        if name in headers:
            raise CheckpointError(f"The weights hold {name} twice, with and without its prefix.")
        headers[name] = header
    missing = sorted(set(slots) - set(headers))
    if missing:
        raise CheckpointError(f"The weights lack {_some(missing)}, which config.json calls for.")
    unexpected = sorted(name for name in set(headers) - set(slots) if not is_ignorable(name, config))
    if unexpected:
        raise CheckpointError(f"The weights hold {_some(unexpected)}, which config.json has no place for.")
    for name, slot in slots.items():
        dtype, shape = headers[name]
        if dtype not in _WEIGHT_DTYPES:
            raise CheckpointError(f"Tensor {name} is {dtype}; supported are {', '.join(_WEIGHT_DTYPES)}.")
        if shape != slot.stored_shape:
            raise CheckpointError(f"Tensor {name} has shape {list(shape)}; config.json calls for {list(slot.stored_shape)}.")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _stored_tensors(path: Path, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor under its canonical name, memory-mapped."""
    for file_path in weight_files(path):
        with _open(file_path) as get_tensor:
            for stored_name in read_header(file_path):
                yield canonical_name(stored_name, config), get_tensor(stored_name)


@contextmanager
def _open(path: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    """Give the function that maps one tensor of the file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file.get_tensor
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path.name} cannot be read; download it again.") from None


def _fill(slot: _Slot, name: str, tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if tensor.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
        raise CheckpointError(f"Tensor {name} has values that are not finite; the checkpoint is damaged.")
    source = tensor.t() if slot.is_transposed else tensor
    weight = torch.empty(source.shape, dtype=dtype, device=device)
    weight.copy_(source)
    if weight.dtype != tensor.dtype and not bool(torch.isfinite(weight).all()):
        raise CheckpointError(f"Tensor {name} does not fit into {str(dtype).removeprefix('torch.')}; use a wider dtype.")
    setattr(slot.module, slot.attribute, nn.Parameter(weight, requires_grad=False))
