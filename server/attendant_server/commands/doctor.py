"""``attendant doctor``: what this machine has, what is missing, and what to do about it."""

import dataclasses
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from attendant_server.commands import terminal
from attendant_server.commands.machine_checks import Finding, check_machine
from attendant_server.commands.terminal import ANSWERED_WITH_ERROR, ApiKey, AsJson, ClientCert, ClientKey, TlsCa, Url

if TYPE_CHECKING:
    from attendant_client import Tls

_MARKS = {"ok": "ok  ", "note": "note", "fault": "FAIL"}


def doctor(
    http_port: Annotated[int, typer.Option("--http-port", help="Port that the server would use.")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="Port that the server would use.")] = 9000,
    as_json: AsJson = False,
    url: Url = terminal.DEFAULT_URL,
    api_key: ApiKey = None,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
) -> None:
    """Check this machine, its ports and the server, and say what to do. Exit code 1 where something keeps it from working."""
    server = check_server(url, api_key, terminal.tls_of(tls_ca, client_cert, client_key))
    findings = [*check_machine(), *(check_port(port, server.state == "ok") for port in (http_port, grpc_port)), server]
    if as_json:
        terminal.print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            typer.echo(f"{_MARKS[finding.state]}  {finding.subject:<{width}}  {finding.detail}")
            if finding.advice:
                typer.echo(f"{'':<{width + 8}}{finding.advice}")
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(ANSWERED_WITH_ERROR)


def check_port(port: int, is_server_running: bool) -> Finding:
    """Whether a server could listen on a port, or does."""
    subject = f"port {port}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            return Finding(subject=subject, state="fault", detail="not a port", advice="Ports are numbers from 0 to 65535.")
        except OSError:
            advice = "" if is_server_running else "Another program listens there; choose another port with --http-port or --grpc-port."
            return Finding(subject=subject, state="ok" if is_server_running else "note", detail="in use", advice=advice)
    return Finding(subject=subject, state="ok", detail="free")


def check_server(url: str, api_key: str | None, tls: "Tls | bool" = False) -> Finding:
    """Whether a server answers, and which models are ready."""
    from attendant_client import AttendantError, Client, RetryPolicy

    try:
        with Client(url, api_key=api_key, tls=tls, timeout_s=5, retry=RetryPolicy(max_attempts=1)) as client:
            models = client.list_models()
    except ValueError as error:
        return Finding(subject="server", state="fault", detail=str(error), advice="Give --url host:port.")
    except AttendantError as error:
        if terminal.exit_code(error) == terminal.NO_SERVER:
            return Finding(subject="server", state="note", detail=f"none at {url}", advice="Start one: attendant serve.")
        return Finding(subject="server", state="fault", detail=error.message, advice="Look at the server's log for its request id.")
    waiting = [f"{model.id} ({model.status})" for model in models if not model.is_ready]
    if waiting:
        return Finding(subject="server", state="note", detail=f"not ready: {', '.join(waiting)}", advice="Wait, or look at its log.")
    return Finding(subject="server", state="ok", detail=f"ready at {url}: {', '.join(model.id for model in models)}")
