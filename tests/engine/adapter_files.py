"""Adapters in PEFT layout with random matrices for a transformers model, and the same model with them merged into its weights.

The layout is PEFT's (``get_peft_model_state_dict``), written by hand: the library is no dependency of ours.
"""

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from attendant_engine.config import AdapterSource

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
ALL_PRODUCTS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to write: which products change, how, and the head (no labels: none)."""

    targets: tuple[str, ...] = ALL_PRODUCTS
    rank: int = 4
    alpha: int = 8
    use_rslora: bool = False
    labels: tuple[str, ...] = ()
    pooling: str = "pooler"
    seed: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def write_adapter(directory: Path, model: PreTrainedModel, recipe: Recipe) -> AdapterSource:
    """Write an adapter for ``model`` and return how an engine is told of it, by the directory's name."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(recipe.seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "encoder." in name and _is_target(name, recipe.targets):
            num_outputs, num_inputs = module.weight.shape
            tensors[f"base_model.model.{name}.lora_A.weight"] = 0.3 * torch.randn(recipe.rank, num_inputs, generator=generator)
            tensors[f"base_model.model.{name}.lora_B.weight"] = 0.3 * torch.randn(num_outputs, recipe.rank, generator=generator)
    if recipe.labels:
        width = model.config.hidden_size
        tensors["base_model.model.classifier.weight"] = torch.randn(len(recipe.labels), width, generator=generator)
        tensors["base_model.model.classifier.bias"] = torch.randn(len(recipe.labels), generator=generator)
        id2label = {str(label_id): label for label_id, label in enumerate(recipe.labels)}
        (directory / "config.json").write_text(json.dumps({"id2label": id2label, "classifier_pooling": recipe.pooling}))
    save_file(tensors, directory / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.1,
        "bias": "none",
        "use_rslora": recipe.use_rslora,
        "target_modules": sorted(recipe.targets),
        "modules_to_save": ["classifier"] if recipe.labels else None,
        "base_model_name_or_path": "somebody/base",
    }
    (directory / "adapter_config.json").write_text(json.dumps(fields | recipe.more))
    return AdapterSource(name=directory.name, path=str(directory))


def read_tensors(source: AdapterSource) -> dict[str, torch.Tensor]:
    """Return what an adapter's file holds, by PEFT's names without their prefix."""
    stored = load_file(Path(source.path, "adapter_model.safetensors"))
    return {name.removeprefix("base_model.model."): tensor for name, tensor in stored.items()}


def merged(model: ModelT, source: AdapterSource, recipe: Recipe) -> ModelT:
    """Return a copy of ``model`` with W + scale B A for every W that the adapter changes, and the adapter's classifier."""
    tensors = read_tensors(source)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in copied.named_modules():
            down, up = tensors.get(f"{name}.lora_A.weight"), tensors.get(f"{name}.lora_B.weight")
            if down is not None and up is not None:
                assert isinstance(module, nn.Linear)
                module.weight += recipe.scale * up @ down
            if name == "classifier" and recipe.labels:
                module.weight = nn.Parameter(tensors["classifier.weight"])
                module.bias = nn.Parameter(tensors["classifier.bias"])
    return copied


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return any(name.endswith("." + target) for target in targets)
