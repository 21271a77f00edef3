"""``attendant embed`` and ``attendant classify``: a vector or a label for each text."""

from typing import Annotated, Literal

import typer

from attendant_server.commands import terminal
from attendant_server.commands.terminal import ApiKey, AsJson, ClientCert, ClientKey, InputFile, ModelName, TimeoutS, TlsCa, Url

Texts = Annotated[list[str] | None, typer.Argument(help="Texts, each on its own; - or none reads lines of standard input.")]

NUM_SHOWN_VALUES = 6


def embed(
    texts: Texts = None,
    file: InputFile = None,
    model: ModelName = None,
    dimensions: Annotated[int | None, typer.Option("--dimensions", min=1, help="Keep this many leading dimensions.")] = None,
    pooling: Annotated[Literal["mean", "cls", "last"] | None, typer.Option("--pooling", help="Default: the model's own.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Scale to length one. Default: as the model says.")
    ] = None,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Turn texts into vectors."""
    inputs = terminal.read_lines(texts or [], file)
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        name = terminal.choose_model(client, model, "embedding")
        answer = client.embed(name, inputs, dimensions=dimensions, pooling=pooling, normalize=normalize, timeout_s=timeout_s)
    if as_json:
        terminal.print_json(answer)
        return
    for vector in answer.vectors:
        shown = " ".join(f"{value:+.4f}" for value in vector[:NUM_SHOWN_VALUES])
        more = " ..." if len(vector) > NUM_SHOWN_VALUES else ""
        typer.echo(f"{len(vector)} values: {shown}{more}")
    if any(len(vector) > NUM_SHOWN_VALUES for vector in answer.vectors):
        typer.echo("All values: --json.", err=True)


def classify(
    texts: Texts = None,
    pair: Annotated[str | None, typer.Option("--pair", help="A second text, read together with each of the texts.")] = None,
    file: InputFile = None,
    model: ModelName = None,
    multi_label: Annotated[
        bool | None, typer.Option("--multi-label/--single-label", help="Judge each label alone. Default: as the model says.")
    ] = None,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Label texts, or pairs of texts."""
    inputs = terminal.read_lines(texts or [], file)
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        name = terminal.choose_model(client, model, "classification")
        pairs = [(text, pair) for text in inputs] if pair is not None else inputs
        answer = client.classify(name, pairs, multi_label=multi_label, timeout_s=timeout_s)
    if as_json:
        terminal.print_json(answer)
        return
    for item in answer.classifications:
        others = ", ".join(f"{label} {prob:.4f}" for label, prob in item.probs.items())
        typer.echo(f"{item.label}\t{item.score:.4f}\t({others})")
