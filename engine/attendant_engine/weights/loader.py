"""A checkpoint from its files into memory: laid out on the meta device, checked, and filled one tensor at a time."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from attendant_engine.attention.registry import load_backend, resolve_backend_name
from attendant_engine.config import AdapterSource, ModelConfig
from attendant_engine.errors import InvalidRequestError
from attendant_engine.layers.linear import Linear
from attendant_engine.models.adapted import adapt
from attendant_engine.models.base import ClassificationHead, LoadedAdapter, LoadedModel, Trunk
from attendant_engine.models.native import NativeModel, Quantization, can_compile, compile_model
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.models.sharding import shard_config, shard_model
from attendant_engine.rank_group import Ranks
from attendant_engine.stats import LoadStats
from attendant_engine.weights.adapters import AdapterWeights, combined_digest, read_adapter
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from attendant_engine.weights.safetensors_files import digest, weight_files


def load_model(
    path: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention_backend: str,
    quantization: Quantization = "none",
    adapters: Sequence[AdapterSource] = (),
    ranks: Ranks | None = None,
) -> LoadedModel:
    """Load the checkpoint in ``path``, converted to ``dtype`` on ``device``; of its trunk, with ``ranks``, the first one's share.

    ``attention_backend`` is a name of ``attention.registry`` or "auto"; "native" compiles the whole model, ``quantization``
    included, where the kernels do all that it asks. Raises ``CheckpointError`` with a sentence for
    everything that can be wrong with the directory or a tensor in it, or with one of ``adapters``.
    """
    started_s = time.perf_counter()
    config = read_model_config(path)
    built = _lay_out(config, attention_backend, device, ranks)
    read = [read_adapter(source, path, built, config) for source in adapters]
    deltas, heads = [adapter.deltas for adapter in read], [adapter.head for adapter in read]
    configured_s = time.perf_counter()
    with ModelWeights(path, built, config, dtype=dtype, device=device) as weights:
        if resolve_backend_name(attention_backend, device) == "native" and can_compile(config, dtype):
            ready: BuiltModel | NativeModel = compile_model(
                built, dtype=dtype, quantization=quantization, fill=weights.fill, adapters=deltas, adapter_heads=heads
            )
        elif quantization != "none":
            raise InvalidRequestError(
                f"quantization is {quantization} and takes the native CPU kernels, which cannot run this model here; use none.",
                param="quantization",
            )
        else:
            ready = adapt(_fill(built, weights, device), deltas, dtype=dtype, device=device)
            heads = [_ready_head(head, dtype, device) for head in heads]
        weights.check_complete()
        num_parameters, num_own_parameters = weights.num_parameters, weights.num_own_parameters
    own_heads = ready.adapter_heads if isinstance(ready, NativeModel) else heads
    model_digest = digest(weight_files(path))
    return LoadedModel(
        config=config,
        trunk=ready.trunk,
        dtype=dtype,
        device=device,
        digest=model_digest,
        num_parameters=num_parameters,
        lm_head=ready.lm_head,
        pooling_head=ready.pooling_head,
        classification_head=ready.classification_head,
        adapters=tuple(_adapter(adapter, head, ready, config, model_digest) for adapter, head in zip(read, own_heads, strict=True)),
        load_stats=LoadStats(
            phase_s={"config": configured_s - started_s, "weights": time.perf_counter() - configured_s},
            weight_bytes=ready.weight_bytes if isinstance(ready, NativeModel) else num_own_parameters * dtype.itemsize,
        ),
    )


def load_trunk(path: Path, *, dtype: torch.dtype, device: torch.device, attention_backend: str, ranks: Ranks) -> Trunk:
    """Load this rank's share of the checkpoint in ``path``, for a rank that has no heads. Raises as ``load_model`` does."""
    config = read_model_config(path)
    whole = _lay_out(config, attention_backend, device, ranks)
    built = BuiltModel(trunk=whole.trunk)
    with ModelWeights(path, whole, config, dtype=dtype, device=device) as weights:
        if resolve_backend_name(attention_backend, device) == "native" and can_compile(config, dtype):
            trunk: Trunk = compile_model(built, dtype=dtype, quantization="none", fill=weights.fill).trunk
        else:
            trunk = _fill(built, weights, device).trunk
        weights.check_complete(built.modules_with_weights)
    return trunk


def _lay_out(config: ModelConfig, attention_backend: str, device: torch.device, ranks: Ranks | None) -> BuiltModel:
    own = config if ranks is None else shard_config(config, ranks.num_ranks)
    with torch.device("meta"):
        built = build_model(own, load_backend(attention_backend, device))
    if ranks is not None:
        shard_model(built, config.family, ranks)
    return built


def _adapter(
    adapter: AdapterWeights, head: ClassificationHead | None, ready: BuiltModel | NativeModel, config: ModelConfig, model_digest: str
) -> LoadedAdapter:
    return LoadedAdapter(
        name=adapter.name,
        digest=combined_digest(model_digest, adapter.digest),
        rank=adapter.rank,
        num_parameters=adapter.num_parameters,
        pooling_head=ready.pooling_head if head is None else None,
        classification_head=ready.classification_head if head is None else head,
        labels=config.labels if head is None else adapter.labels,
        multi_label=config.multi_label if head is None else adapter.multi_label,
    )


def _ready_head(head: ClassificationHead | None, dtype: torch.dtype, device: torch.device) -> ClassificationHead | None:
    if isinstance(head, nn.Module):
        head.to(device, dtype).eval()
        for module in head.modules():
            if isinstance(module, Linear):
                module.pack()
    return head


def _fill(built: BuiltModel, weights: ModelWeights, device: torch.device) -> BuiltModel:
    for module in built.modules_with_weights:
        weights.fill(module)
        module.to(device).eval()
    built.pack()
    return built
