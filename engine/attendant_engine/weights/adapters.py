"""Adapters in PEFT layout: ``adapter_config.json``, ``adapter_model.safetensors``, and for a classifier ``config.json``.

Low-rank matrices (Hu et al. 2021) for products of the trunk, and perhaps a classification head. The head's labels stand in
``config.json`` as in a model's; its ``classifier_pooling`` says over what it classifies: ``pooler`` (BERT's own, the
default), or ``mean`` or ``cls`` of the hidden states. Every fault is a ``CheckpointError`` that names the adapter.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attendant_engine.config import AdapterSource, ModelConfig
from attendant_engine.errors import CheckpointError
from attendant_engine.heads.classification import PooledClassification, PoolerClassification
from attendant_engine.json_fields import Fields, read_fields, read_optional_fields
from attendant_engine.kernels.cpu.low_rank import LowRank, LowRankDeltas
from attendant_engine.layers.linear import Linear
from attendant_engine.models.base import ClassificationHead
from attendant_engine.models.registry import BuiltModel
from attendant_engine.types import PoolingMode
from attendant_engine.weights.adapter_config import CONFIG_FILE, AdapterConfig, parse_adapter_config
from attendant_engine.weights.model_config import is_multi_label, read_labels
from attendant_engine.weights.names import canonical_name
from attendant_engine.weights.safetensors_files import digest, weight_files
from attendant_engine.weights.tensor_reader import READABLE_DTYPES, TensorReader

WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_POOLINGS: dict[str, PoolingMode] = {"mean": "mean", "cls": "cls"}

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeights:
    """An adapter read and checked against its model. ``digest`` is sha256 over its weight file; ``head`` is filled, in float32."""

    name: str
    deltas: LowRankDeltas
    head: ClassificationHead | None
    labels: tuple[str, ...]
    multi_label: bool
    digest: str
    rank: int
    num_parameters: int


def read_adapter(source: AdapterSource, model_path: Path, built: BuiltModel, config: ModelConfig) -> AdapterWeights:
    """Read the adapter of ``source`` for the laid-out model ``built`` of the checkpoint in ``model_path``.

    Raises ``CheckpointError`` with a sentence that names the adapter.
    """
    try:
        return _read(source, model_path, built, config)
    except CheckpointError as error:
        raise CheckpointError(f"Adapter '{source.name}': {error.message}") from None


def combined_digest(model_digest: str, adapter_digest: str) -> str:
    """Name a model's weights and an adapter's together."""
    return hashlib.sha256(f"{model_digest}{adapter_digest}".encode()).hexdigest()


def _read(source: AdapterSource, model_path: Path, built: BuiltModel, config: ModelConfig) -> AdapterWeights:
    if config.kind != "encoder":
        raise CheckpointError(f"adapters are served on encoders, and this model is a {config.family} {config.kind}; serve it without.")
    directory = Path(source.path)
    if not directory.is_dir():
        raise CheckpointError("its directory does not exist; give one with adapter_config.json and adapter_model.safetensors.")
    adapter = parse_adapter_config(read_fields(directory, CONFIG_FILE))
    tensors = _read_tensors(directory / WEIGHTS_FILE, config)
    deltas, head_tensors = _deltas(tensors, adapter, built)
    labels: tuple[str, ...] = ()
    multi_label, head = False, None
    if head_tensors:
        fields = read_optional_fields(directory, "config.json") or Fields("config.json", {})
        head = _head(head_tensors, fields, model_path, config)
        labels = _labels(fields, head.classifier.weight.shape[0])
        multi_label = is_multi_label(fields, len(labels))
    return AdapterWeights(
        name=source.name,
        deltas=deltas,
        head=head,
        labels=labels,
        multi_label=multi_label,
        digest=digest((directory / WEIGHTS_FILE,)),
        rank=adapter.rank,
        num_parameters=sum(tensor.numel() for tensor in tensors.values()),
    )


def _read_tensors(path: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return every tensor in float32 by the name that its module has in our trunk."""
    if not path.is_file():
        raise CheckpointError(f"it has no {path.name}; save it as safetensors.")
    return {canonical_name(name.removeprefix(_PREFIX), config): tensor for name, tensor in _load(path).items()}


def _load(path: Path, wanted: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
    """Read the tensors of a file whose names end as one of ``wanted`` does, or all of them."""
    tensors: dict[str, torch.Tensor] = {}
    with TensorReader((path,)) as reader:
        for name in reader.names:
            if wanted is not None and not name.endswith(wanted):
                continue
            if reader.stored_dtype(name) not in READABLE_DTYPES:
                raise CheckpointError(f"tensor {name} is {reader.stored_dtype(name)}; supported are {', '.join(READABLE_DTYPES)}.")
            chunks = [rows.float() for _, rows in reader.row_chunks(name)]
            if not chunks:
                raise CheckpointError(f"tensor {name} is empty; the adapter is damaged.")
            tensors[name] = torch.cat(chunks)
            if not bool(torch.isfinite(tensors[name]).all()):
                raise CheckpointError(f"tensor {name} has values that are not finite; the adapter is damaged.")
    return tensors


def _deltas(tensors: Tensors, adapter: AdapterConfig, built: BuiltModel) -> tuple[LowRankDeltas, dict[str, torch.Tensor]]:
    """Match pairs of matrices with the trunk's products; return them, and the tensors of a head."""
    products = {name: module for name, module in built.trunk.named_modules() if isinstance(module, Linear)}
    deltas: dict[nn.Module, LowRank] = {}
    head_tensors: dict[str, torch.Tensor] = {}
    changed: list[str] = []
    for name, tensor in tensors.items():
        if name.endswith(_DOWN):
            module_name = name.removesuffix(_DOWN)
            module, up = products.get(module_name), tensors.get(module_name + _UP)
            if module is None:
                raise CheckpointError(f"it changes {module_name}, which is no product of this model; it was made for another one.")
            if up is None:
                raise CheckpointError(f"it has {name} and no {module_name}{_UP}; the adapter is damaged.")
            deltas[module] = _delta(module_name, module, tensor, up, adapter)
            changed.append(module_name)
        elif name.startswith(("classifier.", "pooler.")):
            head_tensors[name] = tensor
        elif not (name.endswith(_UP) and name.removesuffix(_UP) + _DOWN in tensors):
            raise CheckpointError(f"it holds {name:.120}, which is neither a matrix of LoRA nor a classifier's.")
    for target in adapter.target_modules or ():
        if target not in ("classifier", "pooler.dense") and not any(_is_called(name, target) for name in changed):
            known = ", ".join(sorted({_short_name(name) for name in products}))
            missing = "the file has no matrices for it" if any(_is_called(name, target) for name in products) else f"this model has {known}"
            raise CheckpointError(f"target_modules names {target!r:.80}; {missing}.")
    if not deltas:
        raise CheckpointError("it has no LoRA matrices; save it by PEFT's save_pretrained.")
    return deltas, head_tensors


def _delta(name: str, module: Linear, down: torch.Tensor, up: torch.Tensor, adapter: AdapterConfig) -> LowRank:
    num_outputs, num_inputs = module.weight.shape
    for tensor, suffix, shape in ((down, _DOWN, (adapter.rank, num_inputs)), (up, _UP, (num_outputs, adapter.rank))):
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{name}{suffix} has shape {list(tensor.shape)}; r = {adapter.rank} and this model call for {list(shape)}. "
                "Was it made for another model?"
            )
    return LowRank(down, up * adapter.scale)


def _is_called(module_name: str, target: str) -> bool:
    """Match as PEFT does: the whole name, or its end from a dot on."""
    return module_name == target or module_name.endswith("." + target)


def _short_name(name: str) -> str:
    """Drop what differs from layer to layer."""
    return name.rpartition(".")[2] if not name.endswith(".dense") else ".".join(name.split(".")[-2:])


def _head(tensors: Tensors, fields: Fields, model_path: Path, config: ModelConfig) -> PoolerClassification | PooledClassification:
    weight = tensors.get("classifier.weight")
    if weight is None or weight.dim() != 2 or weight.shape[1] != config.hidden_size:
        shape = "no classifier.weight" if weight is None else f"classifier.weight of shape {list(weight.shape)}"
        raise CheckpointError(f"its head has {shape}; this model calls for [labels, {config.hidden_size}].")
    bias = tensors.get("classifier.bias", torch.zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise CheckpointError(f"classifier.bias has shape {list(bias.shape)}; classifier.weight calls for [{len(weight)}].")
    pooling = fields.text("classifier_pooling", "pooler")
    head: PoolerClassification | PooledClassification
    if pooling == "pooler":
        head = PoolerClassification(config.hidden_size, len(weight))
        _fill(head.pooler.dense, *_pooler(tensors, model_path, config))
    elif pooling in _POOLINGS:
        head = PooledClassification(config.hidden_size, len(weight), _POOLINGS[pooling])
    else:
        raise fields.error(f"classifier_pooling {pooling!r:.40} is not supported; supported are pooler, {', '.join(_POOLINGS)}")
    _fill(head.classifier, weight, bias)
    return head


def _pooler(tensors: Tensors, model_path: Path, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pooler's weight and bias, of the adapter or else of the model's checkpoint."""
    found = dict(tensors)
    for path in weight_files(model_path) if any(name not in found for name in _POOLER) else ():
        found |= {canonical_name(name, config): tensor for name, tensor in _load(path, _POOLER).items()}
    weight, bias = (found.get(name) for name in _POOLER)
    if weight is None or bias is None or weight.shape != (config.hidden_size,) * 2 or bias.shape != (config.hidden_size,):
        raise CheckpointError(
            "its head classifies over BERT's pooler, which neither it nor the model has; set classifier_pooling in its config.json "
            "to mean or cls if it was trained so."
        )
    return weight, bias


def _fill(module: Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = nn.Parameter(bias, requires_grad=False)


def _labels(fields: Fields, num_labels: int) -> tuple[str, ...]:
    if "id2label" not in fields:
        return tuple(f"LABEL_{label_id}" for label_id in range(num_labels))
    labels = read_labels(fields)
    if len(labels) != num_labels:
        raise fields.error(f"id2label names {len(labels)} labels; the classifier has {num_labels}")
    return labels
