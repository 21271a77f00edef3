"""Mutual TLS in one process, and the command line over it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.server_process import ServerProcess
from tests.e2e.tls_checks import TlsChecks
from tests.e2e.tls_checks import authority as authority
from tests.e2e.tls_checks import client_pair as client_pair
from tests.e2e.tls_checks import stranger as stranger


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[ServerProcess]:
    pair = authority.issue("server")
    server = ServerProcess(
        MODEL,
        *("--http-port", "0", "--grpc-port", "0", "--local", "--kv-cache-memory", "12MiB", "--log-level", "warning"),
        *("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.ca)),
        log_dir=tmp_path_factory.mktemp("server"),
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


class TestLocalTls(TlsChecks):
    pass


def _attendant(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("attendant")), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_the_commands_take_the_same_files(tls_server: ServerProcess, authority: Authority, client_pair: Pair) -> None:
    files = ("--tls-ca", str(authority.ca), "--client-cert", str(client_pair.cert), "--client-key", str(client_pair.key))
    done = _attendant("models", "--url", tls_server.grpc_address, *files)
    assert done.returncode == 0, done.stderr
    assert MODEL in done.stdout
    assert _attendant("models", "--url", tls_server.grpc_address, *files[:2]).returncode == 3
    wrong = _attendant("models", "--url", tls_server.grpc_address, "--tls-ca", "/nowhere/ca.pem")
    assert wrong.returncode == 2
    assert "The TLS file /nowhere/ca.pem cannot be read" in wrong.stderr


@pytest.mark.parametrize("where", ["--local", "--no-local"])
def test_a_file_that_does_not_work_is_said_at_once(tmp_path: Path, where: str) -> None:
    done = _attendant("serve", MODEL, where, "--http-port", "0", "--grpc-port", "0", "--tls-cert", str(tmp_path / "absent.pem"))
    assert done.returncode == 1
    assert "attendant: --tls-cert is given without --tls-key; TLS needs a certificate and its key." in done.stderr
