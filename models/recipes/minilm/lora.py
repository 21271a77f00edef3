"""Low-rank adapters (Hu et al. 2021) beside the products of a frozen BERT, written and read in PEFT's layout."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import dropout, linear
from transformers import BertModel

TARGETS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


class LoraLinear(nn.Module):
    """A frozen product and its adapter: W x + b + (alpha / rank) B A dropout(x). B begins as zero."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: int, dropout_rate: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout_rate = dropout_rate
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[*, in]`` to ``[*, out]``."""
        out: torch.Tensor = self.base(x)
        return out + self.scale * linear(linear(dropout(x, self.dropout_rate, self.training), self.down), self.up)


def add_lora(trunk: BertModel, *, first_layer: int, rank: int, alpha: int, dropout_rate: float) -> None:
    """Freeze ``trunk`` and put an adapter beside every product (``TARGETS``) of the layers from ``first_layer`` on.

    The frozen weights are held in bfloat16, which is what they are.
    """
    trunk.requires_grad_(False)
    for index, layer in enumerate(trunk.encoder.layer):
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
                if index >= first_layer:
                    layer.set_submodule(name, LoraLinear(module, rank=rank, alpha=alpha, dropout_rate=dropout_rate))


def lora_modules(trunk: BertModel) -> Iterator[tuple[str, LoraLinear]]:
    """Yield each adapted product with its name."""
    for name, module in trunk.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def save_adapter(
    directory: Path, trunk: BertModel, classifier: nn.Linear, labels: list[str], *, rank: int, alpha: int, base_model: str
) -> None:
    """Write the adapters of ``trunk`` and the head as PEFT does, in bfloat16, with the labels in ``config.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in lora_modules(trunk):
        tensors[f"base_model.model.bert.{name}.lora_A.weight"] = module.down
        tensors[f"base_model.model.bert.{name}.lora_B.weight"] = module.up
    tensors["base_model.model.classifier.weight"] = classifier.weight
    tensors["base_model.model.classifier.bias"] = classifier.bias
    stored = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(
        directory / "adapter_config.json",
        {
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "layers_pattern": "layer",
            "layers_to_transform": sorted({int(name.split(".")[2]) for name, _ in lora_modules(trunk)}),
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "modules_to_save": ["classifier"],
            "peft_type": "LORA",
            "r": rank,
            "target_modules": list(TARGETS),
            "task_type": "SEQ_CLS",
        },
    )
    _write_json(
        directory / "config.json",
        {"classifier_pooling": "mean", "id2label": {str(label_id): label for label_id, label in enumerate(labels)}},
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
