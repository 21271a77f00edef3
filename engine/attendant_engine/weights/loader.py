"""A checkpoint from its files into memory: laid out on the meta device, checked, and filled one tensor at a time."""

import time
from pathlib import Path

import torch

from attendant_engine.attention.registry import load_backend
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.registry import build_model
from attendant_engine.stats import LoadStats
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from attendant_engine.weights.safetensors_files import digest, weight_files


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
    with ModelWeights(path, built, config, dtype=dtype, device=device) as weights:
        for module in built.modules_with_weights:
            weights.fill(module)
            module.to(device).eval()
        weights.check_complete()
        num_parameters = weights.num_parameters
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
            weight_bytes=num_parameters * dtype.itemsize,
        ),
    )
