"""``attendant few-shot``: a task from examples, by label or in free text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attendant_server.commands import terminal
from attendant_server.commands.terminal import (
    WRONG_CALL,
    ApiKey,
    AsJson,
    ClientCert,
    ClientKey,
    InputFile,
    ModelName,
    TimeoutS,
    TlsCa,
    Url,
    fail,
)

if TYPE_CHECKING:
    from attendant_client import FewShotExample

SEPARATOR = "=>"


def few_shot(
    queries: Annotated[list[str] | None, typer.Argument(help="The questions; - or none reads lines of standard input.")] = None,
    example: Annotated[
        list[str] | None, typer.Option("--example", "-e", help=f"A worked example, 'input {SEPARATOR} output'; may be repeated.")
    ] = None,
    examples_file: Annotated[
        Path | None,
        typer.Option("--examples-file", exists=True, dir_okay=False, help="JSON lines with input, output and (optional) reasoning."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="A label to score; give all of them.")] = None,
    instruction: Annotated[str, typer.Option("--instruction", help="What to do, put before the examples.")] = "",
    template: Annotated[str | None, typer.Option("--template", help="How an example is written: {input}, {output}, {reasoning}.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Divide by each label's probability without a question.")] = False,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Most tokens of a free answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "-t", help="Of a free answer.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Fixes the draws of a free answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends a free answer; may be repeated.")] = None,
    file: InputFile = None,
    model: ModelName = None,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    timeout_s: TimeoutS = None,
) -> None:
    """Do a task from examples: score labels, or answer freely where none are given."""
    questions = terminal.read_lines(queries or [], file)
    examples = [_split(text) for text in example or ()] + (_read_examples(examples_file) if examples_file is not None else [])
    with terminal.connected(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key)) as client:
        answer = client.few_shot(
            terminal.choose_model(client, model, "few-shot"),
            queries=questions,
            examples=examples,
            labels=label or None,
            instruction=instruction,
            template=template,
            calibrate=calibrate,
            timeout_s=timeout_s,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stop=stop or None,
        )
    if as_json:
        terminal.print_json(answer)
        return
    for item in answer.answers:
        probs = ", ".join(f"{name} {prob:.4f}" for name, prob in item.probs.items())
        typer.echo(f"{item.label}\t{item.score:.4f}\t({probs})" if item.label is not None else item.text)


def _split(text: str) -> "FewShotExample":
    from attendant_client import FewShotExample

    question, separator, answer = text.partition(SEPARATOR)
    if not separator:
        fail(f"The example {text!r} has no '{SEPARATOR}' between input and output.", WRONG_CALL)
    return FewShotExample(question.strip(), answer.strip())


def _read_examples(file: Path) -> "list[FewShotExample]":
    from attendant_client import FewShotExample

    examples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            examples.append(FewShotExample(**json.loads(line)))
        except (TypeError, ValueError) as error:
            fail(f"Line {number} of {file} is not a JSON object with input, output and (optional) reasoning: {error}.", WRONG_CALL)
    return examples
