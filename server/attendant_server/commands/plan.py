"""``attendant plan``: the memory arithmetic of a model, before anything is loaded."""

from typing import Annotated, Any

import typer

from attendant_server.commands.engine_options import (
    AttentionBackend,
    Device,
    DType,
    KVCacheDType,
    KVCacheMemory,
    MaxBatchTokens,
    MaxModelLen,
    MaxNumSeqs,
    Quantization,
    TensorParallel,
)
from attendant_server.commands.terminal import ANSWERED_WITH_ERROR, WRONG_CALL, fail


def plan(
    model: Annotated[str, typer.Argument(help="A directory, a bundled model's name, or a hub id.")],
    device: Device = None,
    dtype: DType = None,
    attention_backend: AttentionBackend = None,
    quantization: Quantization = None,
    kv_cache_dtype: KVCacheDType = None,
    max_model_len: MaxModelLen = None,
    max_num_seqs: MaxNumSeqs = None,
    max_batch_tokens: MaxBatchTokens = None,
    kv_cache_memory: KVCacheMemory = None,
    tensor_parallel: TensorParallel = None,
) -> None:
    """Print what a model will take on this machine, factor by factor; of several processes, what the first takes."""
    from attendant_engine.errors import EngineError, InvalidRequestError
    from attendant_engine.plan import describe_plan, plan_model
    from attendant_server.commands.settings_sources import SettingsError, collect_settings
    from attendant_server.hosting.engine_settings import engine_config
    from attendant_server.hosting.model_paths import ModelPathError, resolve_model

    flags: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "attention_backend": attention_backend,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_batch_tokens": max_batch_tokens,
        "kv_cache_memory": kv_cache_memory,
        "tensor_parallel": tensor_parallel,
    }
    try:
        settings = collect_settings(flags, environment={}, file=None)
        where = resolve_model(model)
        typer.echo(describe_plan(plan_model(where.path, engine_config(settings))))
    except (SettingsError, ModelPathError, InvalidRequestError) as error:
        fail(str(error), WRONG_CALL)
    except EngineError as error:
        fail(error.message, ANSWERED_WITH_ERROR)
