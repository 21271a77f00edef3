"""What a run resumes from: one file, written beside itself and moved into place, so that a kill leaves the old or the new."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.recipes.gpt.model import ModelShape
from models.recipes.gpt.schedule import Decay


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is. ``seconds`` counts the work of the cores, so neither pauses nor busy neighbours use up a budget."""

    step: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    decay: Decay | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run at rest."""

    shape: ModelShape
    progress: Progress
    model: dict[str, torch.Tensor]
    optimizers: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one step, as far as a reader can tell."""
    unfinished = path.with_name(f"{path.name}.part")
    values = {
        "shape": asdict(checkpoint.shape),
        "progress": asdict(checkpoint.progress),
        "model": checkpoint.model,
        "optimizers": checkpoint.optimizers,
    }
    with unfinished.open("wb") as file:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Return what ``save_checkpoint`` wrote."""
    values = torch.load(path, map_location="cpu", weights_only=True)
    progress = values["progress"]
    decay = Decay(**progress["decay"]) if progress["decay"] is not None else None
    return Checkpoint(
        shape=ModelShape(**values["shape"]),
        progress=Progress(**{**progress, "decay": decay}),
        model=values["model"],
        optimizers=values["optimizers"],
    )
