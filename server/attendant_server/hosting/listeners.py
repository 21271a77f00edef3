"""The two servers of a single process: uvicorn for HTTP and grpc.aio for gRPC, on ports that are bound before anything loads.

They share the event loop with the gateway and know nothing of signals; whoever hosts starts and stops them.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import uvicorn
from fastapi import FastAPI

from attendant_server.hosting.bounded_http import BoundedHttp
from attendant_server.hosting.ports import PortInUseError, require_free
from attendant_server.hosting.tls import TlsFiles

_BACKLOG = 2048


class HttpListener:
    """uvicorn on a socket of ours."""

    def __init__(self, app: FastAPI, *, host: str, port: int, tls: TlsFiles | None = None) -> None:
        self._socket = _bind(host, port)
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                http=BoundedHttp,
                # A handshake would be answered without the middleware that asks for the key.
                ws="none",
                # Clients of OpenAI's SDK keep connections for a while; closing one under a request looks like a fault.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
                **_uvicorn_tls(tls),
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port, also when a free one was asked for."""
        number: int = self._socket.getsockname()[1]
        return number

    def start(self) -> None:
        """Accept connections from now on."""
        self._socket.listen(_BACKLOG)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Close the port and the connections; requests that still run get a second."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class GrpcListener:
    """A grpc.aio server on a port of its own."""

    def __init__(self, server: grpc.aio.Server, *, host: str, port: int, tls: TlsFiles | None = None) -> None:
        require_free(host, port, flag="--grpc-port")
        self._server = server
        try:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _grpc_credentials(tls))
        except RuntimeError:
            raise PortInUseError(f"gRPC cannot listen on port {port} of {host}; choose another with --grpc-port or --host.") from None

    @property
    def port(self) -> int:
        """The port, also when a free one was asked for."""
        return self._port

    async def start(self) -> None:
        """Accept calls from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Close the port; calls that still run (watches of health, most likely) get a moment."""
        await self._server.stop(0.2)


class _QuietServer(uvicorn.Server):
    """uvicorn without its own handling of signals: the process is not its alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone."""
        yield


def _uvicorn_tls(tls: TlsFiles | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files = {"ssl_certfile": str(tls.cert), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is None:
        return files
    return {**files, "ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}


def _grpc_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=None if tls.client_ca is None else tls.client_ca.read_bytes(),
        require_client_auth=tls.is_mutual,
    )


def _bind(host: str, port: int) -> socket.socket:
    require_free(host, port, flag="--http-port")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise PortInUseError(f"HTTP cannot listen on port {port} of {host}; choose another with --http-port or --host.") from None
    return bound
