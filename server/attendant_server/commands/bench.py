"""``attendant bench``: how fast a server answers, as a table for people and as JSON for programs."""

import asyncio
import dataclasses
import sys
from typing import Annotated

import typer

from attendant_server.commands import terminal
from attendant_server.commands.terminal import (
    ANSWERED_WITH_ERROR,
    WRONG_CALL,
    ApiKey,
    AsJson,
    ClientCert,
    ClientKey,
    ModelName,
    TlsCa,
    Url,
    fail,
)


def bench(
    model: ModelName = None,
    concurrency: Annotated[str, typer.Option("--concurrency", "-c", help="Callers at a time; several levels by commas.")] = "1,16",
    requests: Annotated[int, typer.Option("--requests", "-r", min=1, help="Requests of each level.")] = 32,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Length of each (random) prompt.")] = 128,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Length of each output.")] = 128,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second, at random moments; then --concurrency only limits.")
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Requests before the first level that are not counted.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the prompts and the moments.")] = 0,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
) -> None:
    """Measure time to first token, time between tokens, whole answers and throughput."""
    levels = _levels(concurrency)
    if rate is not None and not rate > 0:
        fail(f"--rate is {rate:g}; give requests a second above 0.", WRONG_CALL)
    tls = terminal.tls_of(tls_ca, client_cert, client_key)
    with terminal.connected(url, api_key, tls) as client:
        name = terminal.choose_model(client, model, "completion")
        served = client.get_model(name)
    if prompt_tokens + max_tokens > served.max_model_len:
        fail(
            f"{prompt_tokens} prompt tokens and {max_tokens} generated ones are more than the {served.max_model_len} tokens "
            f"that {name} takes; lower --prompt-tokens or --max-tokens.",
            WRONG_CALL,
        )
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from attendant_server.commands.bench_report import make_report, make_table
    from attendant_server.commands.load_generator import Load, run_load

    load = Load(
        model=name,
        vocab_size=served.vocab_size,
        num_requests=requests,
        concurrency=1,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        rate=rate,
        seed=seed,
    )
    reports = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        if warmup:
            asyncio.run(run_load(dataclasses.replace(load, num_requests=warmup, rate=None, seed=seed - 1), url, api_key, lambda: None, tls))
        for place, level in enumerate(levels):
            bar = progress.add_task(f"{level} at a time", total=requests)
            # Other prompts at each level: none finds the one before it in the prefix cache.
            leveled = dataclasses.replace(load, concurrency=level, seed=seed + place)
            reports.append(make_report(asyncio.run(run_load(leveled, url, api_key, lambda bar=bar: progress.advance(bar), tls))))  # type: ignore[misc]
    if as_json:
        terminal.print_json(
            {
                "model": name,
                "digest": served.digest,
                "dtype": served.dtype,
                "device_kind": served.device_kind,
                "quantization": served.quantization,
                "kernels": served.kernels,
                "prompt_tokens": prompt_tokens,
                "max_tokens": max_tokens,
                "seed": seed,
                "levels": [dataclasses.asdict(report) for report in reports],
            }
        )
    else:
        terminal.print_table(make_table(reports, f"{name}: {prompt_tokens} prompt tokens, {max_tokens} generated"))
    failed = [report for report in reports if report.num_failed]
    if failed:
        num_failed = sum(report.num_failed for report in failed)
        fail(f"{num_failed} requests failed; the first said: {failed[0].first_error}", ANSWERED_WITH_ERROR)


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        fail(f"--concurrency is {text!r}; give whole numbers above 0, for example 1,16.", WRONG_CALL)
    return levels
