"""The processes below a server, as ``/proc`` shows them."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Return the command line of every process below ``pid``, by process id."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything; the parent's id is the second field after it.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: _command(child) for child in found - {pid}}


def serve_replicas(pid: int) -> set[int]:
    """Return the processes of Ray Serve's replicas below ``pid``: engines and gateway."""
    return {child for child, command in descendants(pid).items() if command.startswith("ray::ServeReplica")}


def is_alive(pid: int) -> bool:
    """True while the process runs; one that has ended and waits for its parent does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening_everywhere(pids: Iterable[int]) -> list[int]:
    """Return the TCP ports on which the processes listen on every address of the machine."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(os.readlink(fd))
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and not address.strip("0") and f"socket:[{fields[9]}]" in inodes:
                ports.add(int(port, 16))
    return sorted(ports)


def own_address() -> str | None:
    """Return an address of this machine that is not loopback; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address
    return None


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
