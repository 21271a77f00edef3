"""The application on a Ray cluster of several hosts, deployed as a Kubernetes RayService is: ``serve run`` with a file.

The first host has Ray's head and Serve's proxy and nothing else; of the others there is one more than engine replicas, so that
a lost host's replica finds a place at once.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from attendant_server.hosting.ray_environment import data_plane
from attendant_server.hosting.serve import GRPC_SERVICER_FUNCTIONS
from tests.chaos.hosts import Hosts

_RAY_PORT, _HTTP_PORT, _GRPC_PORT = 6379, 8000, 9000
_HEAD = 0
_COUNT_NODES = "import ray; ray.init(log_to_driver=False, logging_level=50); print(sum(node['Alive'] for node in ray.nodes()))"
_JOINED_WITHIN_S = 180  # on cores that the load keeps busy; idle ones take five seconds
_URGENT = -15
_OBJECT_STORE_BYTES = 80_000_000  # nearly Ray's least: nothing of ours goes through it


class Nodes:
    """A cluster of ``num_replicas + 2`` hosts that serves the model in ``model``. A context manager; ready when entered."""

    def __init__(self, name: str, model: Path, *, num_replicas: int, flags: dict[str, Any], folder: Path) -> None:
        self._hosts = Hosts(num_replicas + 2)
        self._name = name
        self._settings = {"models": [{"name": name, "path": str(model)}], "replicas": num_replicas, **flags}
        self._folder = folder
        self._token = secrets.token_hex(32)
        self._started: list[subprocess.Popen[bytes]] = []
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._num_alive = ""

    def __enter__(self) -> Self:
        self._hosts.__enter__()
        try:
            for number in range(len(self._hosts.names)):
                self.start_node(number)
                # Nodes of one file system that start at once take each other's names of sockets; and Serve divides the
                # CPUs that there are when it deploys.
                self._wait_for_nodes(number + 1)
            self._deploy()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in range(len(self._hosts.names)):
            self.end_node(number)
        for process in self._started:
            process.wait()
        self._hosts.__exit__(kind, error, trace)

    @property
    def http_url(self) -> str:
        """Base address of HTTP, as seen from this machine."""
        return f"http://{Hosts.address(_HEAD)}:{_HTTP_PORT}"

    @property
    def grpc_address(self) -> str:
        """host:port of gRPC, as seen from this machine."""
        return f"{Hosts.address(_HEAD)}:{_GRPC_PORT}"

    @property
    def stderr(self) -> str:
        """What Serve's controller logged."""
        logs = self._folder.glob("ray/session_latest/logs/serve/controller_*.log")
        return "".join(log.read_text(errors="replace") for log in sorted(logs))[-3000:]

    def victims(self) -> list[int]:
        """Return the hosts that have an engine and nothing that there is once only."""
        return [
            number
            for number in range(_HEAD + 1, len(self._hosts.names))
            for commands in [" ".join(map(_command, self._hosts.pids(number)))]
            if f":engine-{self._name}" in commands and ":gateway" not in commands
        ]

    def cut(self, number: int) -> None:
        """Cut a host off."""
        self._hosts.cut(number)

    def replace(self, number: int) -> None:
        """Bring a host back as new: whatever ran on it has ended.

        A real one would start on cores of its own. Here the load has them all, and Ray ends a node whose agent does not come up
        within 15 s; so the host goes before all others until it is in the cluster, and is started again where Ray ended it.
        """
        self.end_node(number)
        self._hosts.join(number)
        self.start_node(number)
        self._wait_for_nodes(len(self._hosts.names), meanwhile=lambda: self._hurry(number))
        self._hosts.set_nice(number, 0)

    def _hurry(self, number: int) -> None:
        for each, process in self._nodes.items():
            if process.poll() is not None:
                self.end_node(each)
                self.start_node(each)
        self._hosts.set_nice(number, _URGENT)

    def start_node(self, number: int) -> None:
        """Start Ray on a host; the head first."""
        role = ["--head", f"--port={_RAY_PORT}", f"--temp-dir={self._folder / 'ray'}", "--include-dashboard=false"]
        if number != _HEAD:
            role = [f"--address={Hosts.address(_HEAD)}:{_RAY_PORT}"]
        common = [
            f"--node-ip-address={Hosts.address(number)}",
            f"--num-cpus={int(number != _HEAD)}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--block",
        ]
        self._nodes[number] = self._start(number, ["ray", "start", *role, *common], f"node-{number}.log")

    def end_node(self, number: int) -> None:
        """End every process on a host, at once."""
        for pid in self._hosts.pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _deploy(self) -> None:
        application = {"name": "attendant", "route_prefix": "/", "import_path": "attendant_server.hosting.serve:build_app"}
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "0.0.0.0", "port": _HTTP_PORT},
            "grpc_options": {"port": _GRPC_PORT, "grpc_servicer_functions": GRPC_SERVICER_FUNCTIONS},
            "applications": [application | {"args": self._settings | {"host": "0.0.0.0"}}],
        }
        file = self._folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._start(_HEAD, ["serve", "run", "--blocking", str(file)], "driver.log")

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every model has a replica."""
        _wait(lambda: httpx.get(f"{self.http_url}/ready", timeout=2).status_code == 200, timeout_s, lambda: self.stderr)

    def _start(self, number: int, command: list[str], log: str) -> subprocess.Popen[bytes]:
        program = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        process = self._hosts.start(number, program, env=self._environment(number), log=self._folder / log)
        self._started.append(process)
        return process

    def _environment(self, number: int) -> dict[str, str]:
        run = self._folder / f"host-{number}"
        run.mkdir(exist_ok=True)
        return {
            **os.environ,
            **data_plane(),
            "RAY_ADDRESS": f"{Hosts.address(_HEAD)}:{_RAY_PORT}" if number == _HEAD else "",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Hosts have one file system here.
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run / "server-state"),
        }

    def _wait_for_nodes(self, count: int, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Return when so many nodes are in the cluster."""

        def are_there() -> bool:
            meanwhile()
            inside = ["ip", "netns", "exec", self._hosts.names[_HEAD], sys.executable, "-c", _COUNT_NODES]
            done = subprocess.run(inside, env=self._environment(_HEAD), capture_output=True, text=True, start_new_session=True)
            self._num_alive = done.stdout.strip()
            return self._num_alive == str(count)

        _wait(are_there, _JOINED_WITHIN_S, lambda: f"{self._num_alive} of {count} hosts\n{self._last_lines()}")

    def _last_lines(self) -> str:
        """Return the end of what Ray said on each host."""
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-700:]}" for log in sorted(self._folder.glob("node-*.log")))


def _wait(holds: Callable[[], bool], timeout_s: float, log: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s\n{log()}")
        time.sleep(0.2)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
