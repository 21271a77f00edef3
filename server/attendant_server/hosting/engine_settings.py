"""From the operator's settings to one engine: its configuration, and the link that loads and owns it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from attendant_engine.config import AdapterSource, EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.faults import parse_faults
from attendant_server.config import ModelSettings, Settings
from attendant_server.link.faults import FaultyLink
from attendant_server.link.local import LocalLink
from attendant_server.metrics import ReplicaMetrics


def engine_config(settings: Settings, *, num_torch_threads: int | None = None) -> EngineConfig:
    """Return what the settings say about every engine; what they leave open, the engine's planner decides."""
    return EngineConfig(
        device=settings.device,
        dtype=settings.dtype,
        attention_backend=settings.attention_backend,
        quantization=settings.quantization,
        kv_cache_dtype=settings.kv_cache_dtype,
        speculation=settings.speculation,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=settings.max_batch_tokens,
        kv_cache_memory_bytes=settings.kv_cache_memory,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        num_torch_threads=num_torch_threads,
        tensor_parallel=settings.tensor_parallel,
        faults=settings.faults,
    )


def make_local_link(model: ModelSettings, settings: Settings, *, replica_id: str, num_torch_threads: int) -> LocalLink:
    """Return the link to an engine of this process, not started yet; to be called on the running event loop."""
    adapters = tuple(AdapterSource(name=adapter.name, path=adapter.path) for adapter in model.adapters)
    config = replace(engine_config(settings, num_torch_threads=num_torch_threads), adapters=adapters)
    load = partial(load_engine, Path(model.path), model.name, config)
    metrics = ReplicaMetrics(model=model.name, replica=replica_id)
    if settings.faults:
        return FaultyLink(load, replica_id=replica_id, metrics=metrics, faults=parse_faults(settings.faults))
    return LocalLink(load, replica_id=replica_id, metrics=metrics)
