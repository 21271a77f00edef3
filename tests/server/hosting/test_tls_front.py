"""The HAProxy that ends TLS in front of Ray Serve: it starts, comes back when it dies, goes with its host, and says what is wrong."""

import asyncio
import os
import signal
import ssl
from pathlib import Path

import pytest

from attendant_server.config import Settings
from attendant_server.hosting import ports
from attendant_server.hosting.tls import load_tls
from attendant_server.hosting.tls_front import TlsFrontError, tls_front, write_config
from tests.certificates import Authority
from tests.e2e.processes import descendants


def _config(directory: Path, authority: Authority) -> tuple[Path, int]:
    pair = authority.issue("server")
    http, grpc, behind_http, behind_grpc = ports.pick_free("127.0.0.1", 4)
    front = Settings(http_port=http, grpc_port=grpc, tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.ca))
    tls = load_tls(front)
    assert tls is not None
    return write_config(directory, tls, front=front, serve=Settings(http_port=behind_http, grpc_port=behind_grpc)), http


def _haproxy(config: Path) -> set[int]:
    """Return the processes that run ``config``; a Ray cluster of other tests has an HAProxy too."""
    return {pid for pid, command in descendants(os.getpid()).items() if str(config) in command and "-c" not in command.split()}


async def _handshake(port: int, authority: Authority) -> None:
    """Return when a TLS handshake with a client certificate succeeds."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    client = authority.issue("client")
    context.load_cert_chain(client.cert, client.key)
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            except ConnectionError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


async def test_it_comes_back_when_it_dies_and_goes_with_its_host(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config, port = _config(tmp_path, authority)
    async with tls_front(config):
        await _handshake(port, authority)
        (first,) = _haproxy(config)
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(20):
            while not (now := _haproxy(config)) or first in now:
                await asyncio.sleep(0.01)
        await _handshake(port, authority)
    assert not _haproxy(config)


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    _config(tmp_path, Authority(tmp_path))
    assert (tmp_path / "tls.pem").stat().st_mode & 0o777 == 0o600


async def test_a_configuration_that_is_refused_is_said(tmp_path: Path) -> None:
    config, _ = _config(tmp_path, Authority(tmp_path))
    (tmp_path / "tls.pem").write_text("nothing")
    with pytest.raises(TlsFrontError, match="refuses its configuration"):
        async with tls_front(config):
            pass
