"""What the commands share: options, reading text, answers for people or programs, and how a failure ends a command.

Exit codes: 0 done, 1 the server answered with an error, 2 the call was wrong, 3 no server there.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from attendant_client import Client, Tls

ANSWERED_WITH_ERROR = 1
WRONG_CALL = 2
NO_SERVER = 3

MAX_TABLE_WIDTH = 400

Url = Annotated[str, typer.Option("--url", envvar="ATTENDANT_URL", help="The server's gRPC address: host:port, or grpcs://host:port.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="ATTENDANT_API_KEY", help="Key, where the server asks for one.")]
TlsCa = Annotated[str | None, typer.Option("--tls-ca", envvar="ATTENDANT_TLS_CA", help="Authority (PEM) to trust; TLS.")]
ClientCert = Annotated[str | None, typer.Option("--client-cert", envvar="ATTENDANT_CLIENT_CERT", help="Certificate (PEM) for mutual TLS.")]
ClientKey = Annotated[str | None, typer.Option("--client-key", envvar="ATTENDANT_CLIENT_KEY", help="Its private key (PEM).")]
ModelName = Annotated[str | None, typer.Option("--model", "-m", help="A served model. Default: the first that does the task.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON, for programs.")]
TimeoutS = Annotated[float | None, typer.Option("--timeout-s", min=0.001, help="Give up after this many seconds.")]
InputFile = Annotated[
    Path | None, typer.Option("--file", "-f", exists=True, dir_okay=False, readable=True, help="Read the text from this file.")
]

DEFAULT_URL = "127.0.0.1:9000"
"""The client's own default, repeated so that help need not import the client."""


def fail(message: str, code: int) -> NoReturn:
    """Say one sentence on standard error and end the command."""
    typer.echo(f"attendant: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def connected(url: str, api_key: str | None, tls: "Tls | bool" = False) -> Iterator["Client"]:
    """Give a client of the server, and turn whatever its calls raise into a sentence and an exit code."""
    # The client's imports (grpc) take longer than `attendant --help` should.
    from attendant_client import AttendantError, Client, RetryPolicy

    try:
        client = Client(url, api_key=api_key, tls=tls, retry=RetryPolicy(max_attempts=2))
    except ValueError as error:
        fail(str(error), WRONG_CALL)
    try:
        with client:
            yield client
    except AttendantError as error:
        fail(error.message, exit_code(error))


def tls_of(ca: str | None, cert: str | None, key: str | None) -> "Tls | bool":
    """Return the client's TLS for the options; False, which leaves the choice to the URL, where none is given."""
    from attendant_client import Tls

    return Tls(ca_file=ca, cert_file=cert, key_file=key) if ca or cert or key else False


def exit_code(error: Exception) -> int:
    """Return the exit code for an error of the client."""
    from attendant_client import ConnectionFailedError, InvalidRequestError, StreamTruncatedError

    if isinstance(error, ConnectionFailedError) and not isinstance(error, StreamTruncatedError):
        return NO_SERVER
    # Refused by the client itself: the server has not seen it.
    if isinstance(error, InvalidRequestError) and error.request_id is None:
        return WRONG_CALL
    return ANSWERED_WITH_ERROR


def choose_model(client: "Client", name: str | None, task: str) -> str:
    """Return the model that was named, else the first served one that does ``task``."""
    if name is not None:
        return name
    models = client.list_models()
    for model in models:
        if task in model.tasks:
            return model.id
    served = ", ".join(model.id for model in models) or "none"
    fail(f"No served model does {task} (served: {served}); name one with --model.", ANSWERED_WITH_ERROR)


def read_text(text: str | None, file: Path | None) -> str:
    """Return the text of the argument, the file or standard input; of the last two without the newline at the end."""
    if text is None or text == "-":
        return _source(text, file).removesuffix("\n")
    if file is not None:
        fail("Give the text as an argument or with --file, not both.", WRONG_CALL)
    return text


def read_lines(texts: Sequence[str], file: Path | None) -> list[str]:
    """Return the arguments, or each line of the file or of standard input that is not blank."""
    if texts and list(texts) != ["-"]:
        if file is not None:
            fail("Give the text as an argument or with --file, not both.", WRONG_CALL)
        return list(texts)
    lines = [line for line in _source("-" if texts else None, file).splitlines() if line.strip()]
    if not lines:
        fail("There is no text; give it as an argument, with --file, or on standard input.", WRONG_CALL)
    return lines


def print_json(value: Any) -> None:
    """Print a result, or plain data, as JSON."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    typer.echo(json.dumps(plain, ensure_ascii=False, indent=2))


def print_table(table: "Table") -> None:
    """Print a table whole: a pipe and a narrow window get long lines, not words cut in pieces."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    console.width = max(console.width, console.measure(table, options=console.options.update(width=MAX_TABLE_WIDTH)).maximum)
    console.print(table)


def print_piece(text: str) -> None:
    """Print part of a line and show it at once."""
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _source(text: str | None, file: Path | None) -> str:
    if file is not None:
        if text is not None:
            fail("Give the text as an argument or with --file, not both.", WRONG_CALL)
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"The file {file} cannot be read as UTF-8 text: {error}.", WRONG_CALL)
    if text is None and sys.stdin.isatty():
        fail("There is no text; give it as an argument, with --file, or on standard input.", WRONG_CALL)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        fail(f"Standard input is not UTF-8 text: {error}.", WRONG_CALL)
