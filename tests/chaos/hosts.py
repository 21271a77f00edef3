"""Several hosts on one machine: network namespaces on a bridge, each with an address of its own, that can be cut off.

Needs root and iproute2. Every name has this process's id in it, and everything goes at the end.
"""

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_NETWORK = "10.213.77"


class Hosts:
    """``count`` hosts and this machine itself, all of which reach each other. A context manager."""

    def __init__(self, count: int) -> None:
        self._bridge = f"att{os.getpid()}"
        self.names = [f"{self._bridge}-{number}" for number in range(count)]

    def __enter__(self) -> Self:
        _ip("link", "add", self._bridge, "type", "bridge")
        try:
            _ip("address", "add", f"{_NETWORK}.254/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(self.names):
                _ip("netns", "add", name)
                _ip("link", "add", self._outer(number), "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", self._outer(number), "master", self._bridge, "up")
                _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    @staticmethod
    def address(number: int) -> str:
        """Return a host's address."""
        return f"{_NETWORK}.{number + 1}"

    def start(self, number: int, command: list[str], *, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on a host; its output goes to the end of ``log``."""
        with log.open("ab") as output:
            inside = ["ip", "netns", "exec", self.names[number], *command]
            return subprocess.Popen(inside, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)

    def pids(self, number: int) -> list[int]:
        """Return the processes on a host."""
        found = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=True)
        return [int(pid) for pid in found.stdout.split()]

    def set_nice(self, number: int, nice: int) -> None:
        """Set the priority of a host's processes where the kernel shares cores out by session, as it then is a session's."""
        for pid in self.pids(number):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{pid}/autogroup").write_text(str(nice))

    def cut(self, number: int) -> None:
        """Take a host's cable out: nobody reaches it, and nobody is told."""
        _ip("link", "set", self._outer(number), "down")

    def join(self, number: int) -> None:
        """Put the cable back."""
        _ip("link", "set", self._outer(number), "up")

    def _outer(self, number: int) -> str:
        return f"{self._bridge}.{number}"

    def _remove(self) -> None:
        for number, name in enumerate(self.names):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "delete", self._outer(number))
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._bridge)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
