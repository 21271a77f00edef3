"""``attendant load`` and ``attendant unload``: which models a running server has, for administrators."""

from typing import Annotated

import typer

from attendant_server.commands import terminal
from attendant_server.commands.terminal import ApiKey, AsJson, ClientCert, ClientKey, TimeoutS, TlsCa, Url

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that requests use.")]


def load(
    model: Name,
    directory: Annotated[
        str | None, typer.Option("--directory", help="In the server's --model-directory. Default: that of the model's own name.")
    ] = None,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Have a running server load a model, and wait until it is ready. Takes an administrator's key."""
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        card = client.load_model(model, directory, timeout_s=timeout_s)
    _say(card.id, f"serves {', '.join(card.tasks)}", as_json)


def unload(
    model: Name,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Have a running server take a model away, and wait until its requests have ended. Takes an administrator's key."""
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        card = client.unload_model(model, timeout_s=timeout_s)
    _say(card.id, "is served no more", as_json)


def _say(model: str, what: str, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"model": model})
    else:
        typer.echo(f"{model} {what}.")
