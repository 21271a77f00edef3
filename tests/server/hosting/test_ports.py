import socket
from collections.abc import Iterator

import pytest

from attendant_server.hosting import ports


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of the loopback address with a listener on it for as long as the test runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(taken_port: int) -> None:
    assert not ports.is_free("127.0.0.1", taken_port)


def test_requiring_a_taken_port_names_the_port_the_address_and_the_flag(taken_port: int) -> None:
    with pytest.raises(ports.PortInUseError, match=rf"Port {taken_port} of 127\.0\.0\.1 .* --http-port 0"):
        ports.require_free("127.0.0.1", taken_port, flag="--http-port")


def test_requiring_port_zero_is_always_met() -> None:
    ports.require_free("127.0.0.1", 0, flag="--http-port")


def test_an_address_of_another_machine_is_not_free() -> None:
    assert not ports.is_free("203.0.113.1", 8000)


def test_picked_ports_differ_and_are_free_and_avoid_what_they_are_told() -> None:
    first = ports.pick_free("127.0.0.1", 20)
    second = ports.pick_free("127.0.0.1", 20, avoid=first)
    assert len({*first, *second}) == 40
    assert all(ports.is_free("127.0.0.1", port) for port in (*first, *second))


def test_a_window_has_no_taken_port_and_overlaps_nothing_avoided() -> None:
    first = ports.pick_window("127.0.0.1", 16)
    second = ports.pick_window("127.0.0.1", 16, avoid=first)
    assert len(first) == len(second) == 16
    assert not set(first) & set(second)


def test_too_many_ports_are_refused_with_a_sentence() -> None:
    with pytest.raises(ports.PortInUseError, match="free ports were found"):
        ports.pick_free("127.0.0.1", 1, avoid=range(65536))


@pytest.mark.parametrize(
    ("host", "reachable"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")]
)
def test_a_client_here_reaches_a_wildcard_through_loopback(host: str, reachable: str) -> None:
    assert ports.reachable(host) == reachable
