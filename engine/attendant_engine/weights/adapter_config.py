"""An adapter's ``adapter_config.json`` in PEFT layout: the only place that knows its keys.

Options that would change the numbers and are not implemented are refused by name; those of training are ignored.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from attendant_engine.json_fields import Fields, read_fields

CONFIG_FILE = "adapter_config.json"

HEAD_MODULES = ("classifier", "pooler")
"""What may be kept whole beside the low-rank matrices."""

_MAX_RANK = 4096
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
"""Others change the model's own weights, so that the adapter fits no model as it was published."""

_SUPPORTED: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "use_qalora": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    "init_lora_weights": _PLAIN_INITIALISATIONS,
}
"""Values that these keys may have; absent and null are fine too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter: its rank, what multiplies B A, and the modules that it says to change (None: a pattern names them).

    ``base_model`` is what it was trained on, as its author called it.
    """

    rank: int
    scale: float
    target_modules: tuple[str, ...] | None
    base_model: str


def parse_adapter_config(fields: Fields) -> AdapterConfig:
    """Return what an adapter is. Raises ``CheckpointError`` for what is unknown, impossible or not implemented."""
    kind = fields.text("peft_type")
    if kind != "LORA":
        raise fields.error(f"peft_type {kind!r:.40} is not supported; supported is LORA")
    for key, supported in _SUPPORTED.items():
        if key in fields and fields.get(key) not in supported:
            raise fields.error(f"{key} {fields.get(key)!r:.60} is not supported; supported is {supported[0]!r}")
    rank = fields.integer("r", 8, maximum=_MAX_RANK)
    alpha = fields.number("lora_alpha", 8)
    return AdapterConfig(
        rank=rank,
        scale=alpha / (math.sqrt(rank) if fields.flag("use_rslora", False) else rank),
        target_modules=_target_modules(fields),
        base_model=fields.text("base_model_name_or_path", ""),
    )


def base_model_of(directory: Path) -> str:
    """Return what an adapter calls the model that it was trained on, "" where it does not say. Raises ``CheckpointError``."""
    return parse_adapter_config(read_fields(directory, CONFIG_FILE)).base_model


def _target_modules(fields: Fields) -> tuple[str, ...] | None:
    listed = fields.get("target_modules")
    if listed is None or isinstance(listed, str):
        return None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise fields.error(f"target_modules must be a list of modules' names, not {listed!r:.80}")
    return tuple(cast(list[str], listed))
