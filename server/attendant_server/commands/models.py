"""``attendant models``: what the server serves, and whether it is ready."""

import dataclasses

from attendant_server.commands import terminal
from attendant_server.commands.terminal import ApiKey, AsJson, ClientCert, ClientKey, TimeoutS, TlsCa, Url


def models(
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """List the served models."""
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        served = client.list_models(timeout_s=timeout_s)
    if as_json:
        terminal.print_json([dataclasses.asdict(model) for model in served])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "kind", "family", "tasks", "context", "runs on", "replicas", "status"):
        table.add_column(heading, justify="right" if heading in ("context", "replicas") else "left")
    for model in served:
        table.add_row(
            model.id,
            model.kind,
            model.family,
            ", ".join(model.tasks),
            str(model.max_model_len),
            ", ".join((model.device_kind, model.dtype, *([] if model.quantization in ("", "none") else [model.quantization]))),
            str(model.num_replicas),
            "ready" if model.is_ready else model.status or "not ready",
        )
    terminal.print_table(table)
