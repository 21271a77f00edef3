"""The command line, run in this process against a real server with a scripted gateway."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from attendant_server import cli
from tests.clients.conftest import RunningServer, start_server
from tests.clients.conftest import unused_port as unused_port
from tests.server.grpc_api.fakes import CARD, FakeGateway


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def running() -> Iterator[RunningServer]:
    server, stop = start_server()
    server.gateway.cards = [CARD, dataclasses.replace(CARD, id="encoder", kind="encoder", tasks=("embedding", "classification"))]
    yield server
    stop()


@pytest.fixture
def gateway(running: RunningServer) -> FakeGateway:
    return running.gateway


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``attendant ARGUMENTS`` with nothing of this machine's environment and ``stdin`` as standard input."""
    for name in ("ATTENDANT_URL", "ATTENDANT_API_KEY", "ATTENDANT_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def ask(run: Run, running: RunningServer) -> Run:
    """Run a command against the running server."""

    def ask(*arguments: str, stdin: str = "") -> Outcome:
        command, *rest = arguments
        return run(command, "--url", running.url, *rest, stdin=stdin)

    return ask
