"""``attendant self-check``: does this machine compute a model as it should, and the record that says how it should."""

from typing import Annotated, Any

import typer

from attendant_server.commands.engine_options import AttentionBackend, Device, DType, KVCacheDType, Quantization
from attendant_server.commands.terminal import ANSWERED_WITH_ERROR, WRONG_CALL, fail


def self_check(
    model: Annotated[str, typer.Argument(help="A directory, a bundled model's name, or a hub id.")],
    write: Annotated[
        bool, typer.Option("--write", help="First write the record beside the checkpoint, computed plainly in float32.")
    ] = False,
    device: Device = None,
    dtype: DType = None,
    attention_backend: AttentionBackend = None,
    quantization: Quantization = None,
    kv_cache_dtype: KVCacheDType = None,
) -> None:
    """Load a model as a server does, and check what it computes, as every replica does before it is ready."""
    from attendant_engine.engine import load_engine
    from attendant_engine.errors import EngineError, InvalidRequestError
    from attendant_engine.self_check.record import FILE_NAME, write_record
    from attendant_server.commands.settings_sources import SettingsError, collect_settings
    from attendant_server.hosting.engine_settings import engine_config
    from attendant_server.hosting.model_paths import ModelPathError, resolve_model

    flags: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "attention_backend": attention_backend,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
    }
    try:
        settings = collect_settings(flags, environment={}, file=None)
        where = resolve_model(model)
        if write:
            from attendant_engine.self_check.reference import MADE_BY, compute_record

            write_record(where.path, compute_record(where.path), made_by=MADE_BY)
            typer.echo(f"{FILE_NAME} has been written beside the checkpoint.")
        engine = load_engine(where.path, where.name, engine_config(settings))
    except (SettingsError, ModelPathError, InvalidRequestError) as error:
        fail(str(error), WRONG_CALL)
    except OSError as error:
        fail(f"{FILE_NAME} cannot be written: {error.strerror}.", WRONG_CALL)
    except EngineError as error:
        fail(error.message, ANSWERED_WITH_ERROR)
    found, phase_s = engine.self_check, engine.load_stats.phase_s
    assert found is not None
    what = (
        f"its answers are finite; {FILE_NAME} is not there to compare them with"
        if found.difference is None
        else f"its answers differ from the record by {found.difference:.2g} at most, {found.tolerance:g} is tolerated"
    )
    typer.echo(f"{where.name} in {engine.info.dtype} on {engine.info.kernels}: {what} ({1000 * phase_s['self_check']:.0f} ms).")
