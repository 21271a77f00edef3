"""Start and stop an ``attendant serve`` of our own for a benchmark, on free ports, in its own process."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """Addresses of a ready server, and how long it took from the command to ready."""

    http_url: str
    grpc_url: str
    ready_s: float
    pid: int


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(*arguments: str, log: Path) -> Iterator[RunningServer]:
    """Run ``attendant serve ARGUMENTS`` until the block ends; output goes to ``log``.

    Raises ``RuntimeError`` if it does not get ready.
    """
    http_port, grpc_port = free_port(), free_port()
    command = [
        str(Path(sys.executable).with_name("attendant")),
        "serve",
        "--http-port",
        str(http_port),
        "--grpc-port",
        str(grpc_port),
        *arguments,
    ]
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{http_port}"
            _wait_ready(process, url, log)
            yield RunningServer(http_url=url, grpc_url=f"127.0.0.1:{grpc_port}", ready_s=time.monotonic() - started_s, pid=process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}; its output is in {log.name}")
        try:
            if httpx.get(f"{url}/ready", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the server was not ready within {READY_TIMEOUT_S:.0f} s; its output is in {log.name}")
