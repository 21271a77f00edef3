"""``attendant serve``: flags, environment and file become settings, and hosting takes over."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

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
from attendant_server.commands.terminal import WRONG_CALL, fail


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[[NAME=]MODEL]...", help="Directories, bundled models' names or hub ids. Default: the bundled models."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="ATTENDANT_CONFIG", dir_okay=False, help="YAML file with the same settings.")
    ] = None,
    local: Annotated[bool | None, typer.Option("--local/--no-local", help="One process, without Ray.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default 127.0.0.1.")] = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="0 picks a free one. Default 8000.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="0 picks a free one. Default 9000.")] = None,
    device: Device = None,
    dtype: DType = None,
    attention_backend: AttentionBackend = None,
    quantization: Quantization = None,
    speculation: Annotated[
        Literal["none", "ngram"] | None,
        typer.Option("--speculation", help="Propose tokens by looking up what followed before; same output. Default ngram."),
    ] = None,
    kv_cache_dtype: KVCacheDType = None,
    max_model_len: MaxModelLen = None,
    max_num_seqs: MaxNumSeqs = None,
    max_batch_tokens: MaxBatchTokens = None,
    kv_cache_memory: KVCacheMemory = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", metavar="NAME=DIR", help="LoRA adapter in PEFT layout; a request picks it as model NAME. May be repeated."
        ),
    ] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", help="Replicas of each model. Default 1.")] = None,
    tensor_parallel: TensorParallel = None,
    min_replicas: Annotated[
        int | None, typer.Option("--min-replicas", help="Fewest replicas of each model, 0 for none when idle; with --max-replicas.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option("--max-replicas", help="Most replicas. Both bounds turn autoscaling on.")] = None,
    downscale_delay_s: Annotated[
        float | None, typer.Option("--downscale-delay-s", help="Idle time before a replica is taken away. Default 60.")
    ] = None,
    api_key_file: Annotated[str | None, typer.Option("--api-key-file", help="Keys, one a line: 'tenant: key'.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", help="Certificate (PEM, with its chain): TLS on both ports.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="The certificate's private key (PEM, no passphrase).")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option("--tls-client-ca", help="Authority (PEM) whose certificates clients must show: mutual TLS.")
    ] = None,
    model_directory: Annotated[
        str | None,
        typer.Option("--model-directory", help="Let administrators load models that lie in this directory, and unload, while it runs."),
    ] = None,
    max_queue: Annotated[int | None, typer.Option("--max-queue", help="Most requests that wait, a model. Default 1024.")] = None,
    max_queue_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-queue-tokens",
            help="Most tokens that wait at a replica, prompts and what may come of them. "
            "Default: 4 times what its cache holds, or 256 full steps if that is more.",
        ),
    ] = None,
    request_timeout_s: Annotated[float | None, typer.Option("--request-timeout-s", help="Longest life of a request. Default 600.")] = None,
    drain_timeout_s: Annotated[
        float | None, typer.Option("--drain-timeout-s", help="Grace for requests in flight when stopping. Default 30.")
    ] = None,
    max_body_bytes: Annotated[str | None, typer.Option("--max-body-bytes", help="Largest request, for example 8MiB (the default).")] = None,
    log_format: Annotated[Literal["console", "json"] | None, typer.Option("--log-format", help="Default console.")] = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, typer.Option("--log-level", help="Default info.")] = None,
    faults: Annotated[str | None, typer.Option("--faults", hidden=True, help="Faults on purpose, with --tests-only.")] = None,
    tests_only: Annotated[bool | None, typer.Option("--tests-only", hidden=True, help="Let --faults work.")] = None,
) -> None:
    """Serve models over gRPC and HTTP.

    Every flag is also a key of the YAML file (--http-port: http_port) and an environment variable (ATTENDANT_HTTP_PORT);
    a flag wins over the variable, the variable over the file.
    """
    from attendant_server.commands.settings_sources import SettingsError, collect_settings
    from attendant_server.hosting.compute_threads import apply_wait_policy
    from attendant_server.hosting.model_paths import ModelPathError

    flags: dict[str, Any] = {
        "local": local,
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "device": device,
        "dtype": dtype,
        "attention_backend": attention_backend,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "speculation": speculation,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_batch_tokens": max_batch_tokens,
        "kv_cache_memory": kv_cache_memory,
        "adapter": adapter or None,
        "replicas": replicas,
        "tensor_parallel": tensor_parallel,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "downscale_delay_s": downscale_delay_s,
        "api_key_file": api_key_file,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "model_directory": model_directory,
        "max_queue": max_queue,
        "max_queue_tokens": max_queue_tokens,
        "request_timeout_s": request_timeout_s,
        "drain_timeout_s": drain_timeout_s,
        "max_body_bytes": max_body_bytes,
        "log_format": log_format,
        "log_level": log_level,
        "faults": faults,
        "tests_only": tests_only,
    }
    try:
        settings = collect_settings(flags, environment=os.environ, file=config, models=models or [])
    except (SettingsError, ModelPathError) as error:
        fail(str(error), WRONG_CALL)
    apply_wait_policy(os.environ)
    # Each host is imported alone: serving in one process needs no Ray, and Ray reads its environment when imported.
    if settings.local:
        from attendant_server.hosting.local import run_local

        code = run_local(settings)
    else:
        from attendant_server.hosting.ray_host import run_on_ray

        code = run_on_ray(settings)
    raise typer.Exit(code)
