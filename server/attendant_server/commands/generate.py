"""``attendant complete`` and ``attendant chat``: text as it is generated."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attendant_server.commands import terminal
from attendant_server.commands.terminal import ApiKey, AsJson, ClientCert, ClientKey, InputFile, ModelName, TimeoutS, TlsCa, Url

if TYPE_CHECKING:
    from attendant_client import ChatOptions

MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=0, help="Most tokens to generate.")]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="0 takes the most probable token each time.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Smallest set of tokens of this probability.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="The k most probable tokens only; 0 is off.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Tokens at least this fraction as probable as the best.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Fixes the draws.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the output; may be given several times.")]
Count = Annotated[int, typer.Option("--n", min=1, help="Independent outputs.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's end of text.")]


def complete(
    text: Annotated[str | None, typer.Argument(help="The text to continue; - or none reads standard input.")] = None,
    file: InputFile = None,
    model: ModelName = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    n: Count = 1,
    ignore_eos: IgnoreEos = False,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before its continuation.")] = False,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Continue a text."""
    prompt = terminal.read_text(text, file)
    options = _options(max_tokens, temperature, top_p, top_k, min_p, seed, stop, n, ignore_eos)
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        name = terminal.choose_model(client, model, "completion")
        if as_json:
            terminal.print_json(client.complete(name, prompt, timeout_s=timeout_s, echo=echo, **options))
        elif n > 1:
            answer = client.complete(name, prompt, timeout_s=timeout_s, echo=echo, **options)
            _print_all([completion.text for completion in answer.completions])
        else:
            with client.stream_complete(name, prompt, timeout_s=timeout_s, echo=echo, **options) as pieces:
                for piece in pieces:
                    terminal.print_piece(piece.text)
            typer.echo()


def chat(
    text: Annotated[str | None, typer.Argument(help="What the user says; - or none reads standard input.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before the conversation.")] = None,
    file: InputFile = None,
    model: ModelName = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    n: Count = 1,
    ignore_eos: IgnoreEos = False,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Answer a user's turn, by the model's own chat template."""
    messages = [("user", terminal.read_text(text, file))]
    if system is not None:
        messages.insert(0, ("system", system))
    options = _options(max_tokens, temperature, top_p, top_k, min_p, seed, stop, n, ignore_eos)
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        name = terminal.choose_model(client, model, "chat")
        if as_json:
            terminal.print_json(client.chat(name, messages, timeout_s=timeout_s, **options))
        elif n > 1:
            _print_all([choice.content for choice in client.chat(name, messages, timeout_s=timeout_s, **options).choices])
        else:
            with client.stream_chat(name, messages, timeout_s=timeout_s, **options) as pieces:
                for piece in pieces:
                    terminal.print_piece(piece.content)
            typer.echo()


def _options(
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    seed: int | None,
    stop: list[str] | None,
    n: int,
    ignore_eos: bool,
) -> "ChatOptions":
    """What was given; the rest is the server's to choose."""
    given: Any = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
        "stop": stop or None,
        "n": n if n > 1 else None,
        "ignore_eos": ignore_eos or None,
    }
    options: ChatOptions = given
    return options


def _print_all(texts: list[str]) -> None:
    for index, text in enumerate(texts):
        typer.echo(f"--- {index}\n{text}")
