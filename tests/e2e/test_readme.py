"""Every command of the README does what the README says, as pasted; only the ports are the test's."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e import readme
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import drawn_sentence

_MAKE = tuple(command for command in readme.shell_commands() if command.startswith("make "))
_OF_AN_OUTER_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "MODEL")
"""What ``make test`` hands to its commands, and a user's shell does not have."""
_CLIENT = tuple(command for command in readme.shell_commands() if not command.startswith("make "))
_PYTHON = tuple(block.text for block in readme.blocks() if block.language == "python")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """What ``make serve ARGS="--local"`` starts: the bundled models, in one process."""
    process = ServerProcess("--local", "--http-port", "0", "--grpc-port", "0", log_dir=tmp_path_factory.mktemp("readme"))
    try:
        process.wait_ready(60)
        yield process
    finally:
        assert process.stop() == 0


@pytest.fixture(scope="module")
def story(server: ServerProcess) -> str:
    """What every way of asking should bring."""
    return drawn_sentence(server.grpc_address, "attendant-gpt")


def _run(command: list[str], server: ServerProcess) -> str:
    ended = subprocess.run(
        command,
        cwd=readme.ROOT,
        env={**os.environ, "ATTENDANT_URL": server.grpc_address, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    return ended.stdout


def _here(text: str, server: ServerProcess) -> str:
    """Put the test's ports and interpreter where the reader has the usual ones."""
    bin_dir = os.path.dirname(sys.executable)
    return (
        text.replace("http://127.0.0.1:8000", server.http_url).replace("127.0.0.1:9000", server.grpc_address).replace(".venv/bin", bin_dir)
    )


@pytest.mark.parametrize("command", _CLIENT)
def test_a_shell_command_runs_as_pasted(server: ServerProcess, story: str, command: str) -> None:
    assert command.startswith((".venv/bin/attendant ", "curl ")), "no test knows what this needs"
    output = _run(["bash", "-euo", "pipefail", "-c", _here(command, server)], server)
    _check_output(command, output, story)


def _check_output(command: str, output: str, story: str) -> None:
    """Assert that the output is of the kind that the README promises."""
    if "/v1/completions" in command:
        assert story in json.loads(output)["choices"][0]["text"]
    elif " complete " in command:
        assert story in output
    elif " few-shot " in command:
        assert output.strip() == "fox"
    elif " embed " in command:
        (vector,) = json.loads(output)["vectors"]
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)
    elif " classify " in command:
        assert re.match(r"\w+\s+0\.\d+\s+\(.*\)$", output)
    elif " models" in command:
        assert all(name in output for name in ("attendant-gpt", "attendant-minilm", "attendant-minilm-sentiment"))
    elif " bench " in command:
        rows = [line.split() for line in output.splitlines() if re.search(r"\b32\b.*\b0\b", line)]
        assert [row[1] for row in rows] == ["1", "16"], "a row for each number of callers, and no request failed"
    elif " plan " in command:
        assert "weights" in output and "cache a token" in output
    elif " self-check " in command:
        assert "differ from the record by" in output
    elif "/metrics" in command:
        assert "attendant_requests_total" in output
    else:
        assert " doctor" in command, "nobody has said what this should print"
        assert re.search(r"^ok +server +ready", output, re.MULTILINE)


@pytest.mark.parametrize("code", _PYTHON)
def test_a_python_block_runs_as_pasted(server: ServerProcess, story: str, code: str) -> None:
    output = _run([sys.executable, "-c", _here(code, server)], server)
    assert story in output
    assert "few_shot" not in code or any(line.startswith(("good ", "bad ")) for line in output.splitlines())


@pytest.mark.parametrize("command", _MAKE)
def test_a_make_command_is_there_and_runs_what_it_says(command: str) -> None:
    path = "models/stories260k"
    arguments = shlex.split(command.replace("/path/to/checkpoint", path))[1:]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_AN_OUTER_MAKE}
    dry = subprocess.run(
        ["make", "-n", *arguments], cwd=readme.ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert dry.returncode == 0, dry.stderr
    lines = [line.strip() for line in dry.stdout.splitlines()]
    if arguments[0] == "serve":
        assert shlex.split(lines[-1]) == [
            ".venv/bin/attendant",
            "serve",
            *([path] if "MODEL" in command else []),
            *(["--local"] if "--local" in command else []),
        ]
    elif arguments[0] in ("test", "test-cluster"):
        assert ".venv/bin/pytest" in lines[-1]
        assert ("-m cluster" in lines[-1]) == (arguments[0] == "test-cluster")
    else:
        assert arguments == ["check"]
        for step in ("ruff format --check", "ruff check", "mypy", "lint-imports", "proto/generate.py --check", "buf lint"):
            assert any(step in line for line in lines), f"make check lacks {step}"


def test_every_fenced_block_is_of_a_language_that_is_tested() -> None:
    assert {block.language for block in readme.blocks()} <= {"bash", "python"}
    assert len(_MAKE) >= 5 and len(_CLIENT) >= 8 and len(_PYTHON) >= 2


@pytest.mark.parametrize("path", readme.named_paths())
def test_a_path_that_the_readme_names_is_there(path: str) -> None:
    assert any(list(base.glob(path.rstrip("/"))) for base in readme.BASES), f"there is no {path}"
