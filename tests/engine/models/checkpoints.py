"""Tiny checkpoints with random weights, saved by transformers itself, and loaded by us."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.base import LoadedModel
from attendant_engine.weights.loader import load_model

CPU = torch.device("cpu")

BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built here")),
]


def randomize(model: PreTrainedModel, seed: int) -> None:
    """Move every parameter, biases and norms too, off its initial value, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))


def save_and_load(model: PreTrainedModel, directory: Path, *, dtype: torch.dtype = torch.float32, backend: str = "torch") -> LoadedModel:
    """Save as a checkpoint and load that."""
    model.train(False)
    model.save_pretrained(directory)
    return load_model(directory, dtype=dtype, device=CPU, attention_backend=backend)
