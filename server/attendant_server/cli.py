"""The ``attendant`` command. With ``commands`` it is the only reader of arguments and environment.

Imports stay light here: each command imports what it needs when it runs, so that none waits for another's libraries.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from attendant_engine import __version__
from attendant_server.commands import bench, doctor, encode, few_shot, generate, model_changes, models, plan, self_check, serve
from attendant_server.commands.terminal import WRONG_CALL

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 the server answered with an error, 2 the call was wrong, 3 no server there.",
)
app.command()(serve.serve)
app.command()(generate.complete)
app.command()(generate.chat)
app.command()(encode.embed)
app.command()(encode.classify)
app.command("few-shot")(few_shot.few_shot)
app.command()(models.models)
app.command()(model_changes.load)
app.command()(model_changes.unload)
app.command()(plan.plan)
app.command("self-check")(self_check.self_check)
app.command()(bench.bench)
app.command()(doctor.doctor)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"attendant {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")] = False,
) -> None:
    """Serve Transformers over gRPC and an OpenAI-compatible HTTP API, and call them."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; a mistake in the call is one sentence on standard error."""
    try:
        result = app(list(arguments) or ["--help"], prog_name="attendant", standalone_mode=False)
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        typer.echo(f"attendant: {_sentence(error)}", err=True)
        return error.exit_code
    except ModuleNotFoundError as error:
        # The client alone may be installed; its commands work, and these say what they lack.
        if error.name is None or error.name.startswith("attendant"):
            raise
        typer.echo(
            f"attendant: This command needs {error.name}, which is not installed; pip install 'attendant[server]' brings it.", err=True
        )
        return WRONG_CALL
    except BrokenPipeError:
        # The reader has left, as `head` does. What Python still wants to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


def _sentence(error: typer.TyperException) -> str:
    """The mistake, with a "did you mean" where an option is close to a known one."""
    # typer's NoSuchOption is not part of its public names.
    if hasattr(error, "possibilities") and hasattr(error, "option_name"):
        close = next(iter(difflib.get_close_matches(error.option_name, error.possibilities or (), n=1)), "")
        return f"{error.option_name} is not an option of this command; " + (f"did you mean {close}?" if close else "--help lists them.")
    # Pydantic, which typer asks about choices, says who speaks.
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return message if message.endswith("?") else message + "."


if __name__ == "__main__":
    main()
