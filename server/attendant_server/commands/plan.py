"""``attendant plan``: the memory arithmetic of a model, before anything is loaded."""

from typing import Annotated, Any, Literal

import typer

from attendant_server.commands.terminal import ANSWERED_WITH_ERROR, WRONG_CALL, fail


def plan(
    model: Annotated[str, typer.Argument(help="A directory, a bundled model's name, or a hub id.")],
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Where it will run.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, typer.Option("--dtype", help="Number format of the weights.")
    ] = None,
    attention_backend: Annotated[
        Literal["auto", "native", "reference", "torch", "triton"] | None,
        typer.Option("--attention-backend", help="What computes; native is our own CPU kernels."),
    ] = None,
    quantization: Annotated[
        Literal["none", "int8", "int4"] | None, typer.Option("--quantization", help="Pack the weights into fewer bits at load.")
    ] = None,
    kv_cache_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"] | None,
        typer.Option("--kv-cache-dtype", help="Number format of the cache; int8 holds twice as much. Default auto: as --dtype."),
    ] = None,
    max_model_len: Annotated[int | None, typer.Option("--max-model-len", help="Longest context, in tokens.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option("--max-num-seqs", help="Most sequences in one step.")] = None,
    max_batch_tokens: Annotated[int | None, typer.Option("--max-batch-tokens", help="Most tokens in one step.")] = None,
    kv_cache_memory: Annotated[str | None, typer.Option("--kv-cache-memory", help="Size of the cache, for example 2GiB.")] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option("--tensor-parallel", help="Processes that share the weights; what is printed is the first one's.")
    ] = None,
) -> None:
    """Print what a model will take on this machine, factor by factor."""
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
