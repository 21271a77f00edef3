"""Host everything in one process: the gateway, both servers and an engine thread a model, on one event loop.

A model shared out by ``--tensor-parallel`` has its other ranks in processes of their own, which its engine starts.

The ports answer at once; models load side by side meanwhile, and until all have, the server says that it is not ready.
"""

import asyncio
import sys
from contextlib import suppress

import uvloop

from attendant_engine.errors import EngineError
from attendant_engine.machine import available_cores
from attendant_server.auth import ApiKeyFileError, ApiKeys
from attendant_server.config import Settings
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.tenants import Tenants
from attendant_server.grpc_api.services import build_server
from attendant_server.hosting.banner import ready_text
from attendant_server.hosting.compute_threads import operator_threads, size_compute_threads
from attendant_server.hosting.cpus import server_cpus
from attendant_server.hosting.garbage import spare_what_is_loaded
from attendant_server.hosting.lifecycle import StopRequest
from attendant_server.hosting.listeners import GrpcListener, HttpListener
from attendant_server.hosting.local_models import LocalModels
from attendant_server.hosting.model_directory import ModelDirectory
from attendant_server.hosting.model_paths import ModelPathError
from attendant_server.hosting.ports import PortInUseError, is_loopback
from attendant_server.hosting.tls import TlsFileError, load_tls
from attendant_server.http_api.app import create_app
from attendant_server.logging import configure_logging

_LAST_WORDS_S = 1.0
"""For the answers to calls that were cut short."""

_SWITCH_INTERVAL_S = 0.0005
"""How long an engine's thread may wait for the interpreter when it returns from a kernel; Python's own 5 ms is much of a step."""


class StartError(Exception):
    """The server cannot start; the message is for the operator."""


def run_local(settings: Settings) -> int:
    """Serve until a signal asks for the end. Return the exit code: 0 after a drain, 1 after a sentence that says why not."""
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except (StartError, PortInUseError, ApiKeyFileError, TlsFileError, ModelPathError, EngineError) as error:
        print(f"attendant: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stop = StopRequest()
    with stop.on_signals():
        server = LocalServer(settings)
        try:
            if await stop.run_unless_stopped(_start(server)):
                await stop.wait()
                await stop.run_within(server.drain(), settings.drain_timeout_s)
        finally:
            await server.stop()


async def _start(server: "LocalServer") -> None:
    await server.start()
    spare_what_is_loaded()
    print(server.ready_text(), flush=True)  # noqa: T201 - the command's output


class LocalServer:
    """A whole server on the running event loop.

    Making it binds both ports. Raises ``PortInUseError``, ``ApiKeyFileError``, ``TlsFileError``, ``ModelPathError`` for the
    model directory, and ``EngineError`` for a tokenizer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        api_keys = ApiKeys.load(settings.api_key_file)
        tls = load_tls(settings)
        directory = None if settings.model_directory is None else ModelDirectory(settings.model_directory)
        num_cores = available_cores()
        num_engines = max(1, len(settings.models) * settings.replicas)
        for_engines = (num_cores - server_cpus(num_cores)) / settings.tensor_parallel  # the other ranks compute meanwhile
        num_torch_threads = size_compute_threads(for_engines, num_engines, most=operator_threads())
        self._models = LocalModels(settings, num_torch_threads=num_torch_threads, directory=directory)
        self.gateway = Gateway(
            self._models.make_first(),
            api_keys=api_keys,
            tenants=Tenants(settings.tenants, api_keys.tenants),
            request_timeout_s=settings.request_timeout_s,
            host=None if directory is None else self._models,
            drain_timeout_s=settings.drain_timeout_s,
            trusts_all=is_loopback(settings.host),
        )
        self._http = HttpListener(create_app(self.gateway, settings), host=settings.host, port=settings.http_port, tls=tls)
        self._grpc = GrpcListener(build_server(self.gateway, settings), host=settings.host, port=settings.grpc_port, tls=tls)

    @property
    def http_port(self) -> int:
        """The port of HTTP, also when a free one was asked for."""
        return self._http.port

    @property
    def grpc_port(self) -> int:
        """The port of gRPC, also when a free one was asked for."""
        return self._grpc.port

    async def start(self) -> None:
        """Answer on both ports at once; return when every model has loaded. Raises ``StartError`` when one cannot."""
        self._models.start()
        self._http.start()
        await self._grpc.start()
        await self._models.wait_all_loaded()
        for card in self.gateway.list_models():
            if not card.is_ready:
                raise StartError(f"Model '{card.id}': {card.status}")

    def ready_text(self) -> str:
        """Return what to print when it is ready."""
        settings = self._settings
        return ready_text(
            self.gateway.list_models(),
            host=settings.host,
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            asks_keys=settings.api_key_file is not None,
            is_tls=settings.tls_cert is not None,
            is_mutual=settings.tls_client_ca is not None,
        )

    async def drain(self) -> None:
        """Refuse new calls at once, and return when none is left; the ports go on answering."""
        self.gateway.start_draining()
        await self.gateway.wait_idle()

    async def stop(self) -> None:
        """End the engines, whatever runs, and close the ports when the callers have heard of it."""
        self.gateway.start_draining()
        await self.gateway.stop_changes()
        await self._models.close_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gateway.wait_idle(), _LAST_WORDS_S)
        await asyncio.gather(self._http.stop(), self._grpc.stop())
        self.gateway.close()
