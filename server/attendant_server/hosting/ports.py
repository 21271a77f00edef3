"""Free ports, and whether a wished-for one is free, before anything is started on it.

Between looking and listening another process may take a port: whoever listens must still be ready to fail. Where a
range is handed to others (Ray Serve's replicas), those try the next port of the range by themselves.
"""

import ipaddress
import random
import socket
from collections.abc import Iterable

_LOW, _HIGH = 20_000, 31_000
"""Below Linux's ephemeral range, so that no outgoing connection takes a port between choice and use."""


class PortInUseError(Exception):
    """A port that the operator named is taken; the message says which and what to do."""


def reachable(host: str) -> str:
    """Return an address that a client on this machine can use for a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """True when only this machine can reach what listens on ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_free(host: str, port: int) -> bool:
    """True when nothing listens on the port of that address right now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(host: str, port: int, *, flag: str) -> None:
    """Raise ``PortInUseError`` when the operator's port is taken or the address is not this machine's."""
    if port != 0 and not is_free(host, port):
        raise PortInUseError(
            f"Port {port} of {host} is not available: another program listens there, or the address is not this machine's. "
            f"Choose another with {flag}; {flag} 0 picks a free one."
        )


def pick_free(host: str, count: int, *, avoid: Iterable[int] = ()) -> list[int]:
    """Return ``count`` different free ports outside the ephemeral range."""
    taken = set(avoid)
    picked: list[int] = []
    candidates = random.SystemRandom().sample(range(_LOW, _HIGH), _HIGH - _LOW)
    for port in candidates:
        if len(picked) == count:
            break
        if port not in taken and is_free(host, port):
            picked.append(port)
    if len(picked) < count:
        raise PortInUseError(f"Only {len(picked)} of {count} free ports were found between {_LOW} and {_HIGH}; stop some servers.")
    return picked


def pick_window(host: str, size: int, *, avoid: Iterable[int] = ()) -> range:
    """Return ``size`` ports in a row of which none is taken now, for programs that want a range."""
    taken = set(avoid)
    starts = random.SystemRandom().sample(range(_LOW, _HIGH - size, size), (_HIGH - size - _LOW) // size)
    for start in starts:
        window = range(start, start + size)
        if taken.isdisjoint(window) and all(is_free(host, port) for port in window):
            return window
    raise PortInUseError(f"No {size} free ports in a row were found between {_LOW} and {_HIGH}; stop some servers.")
