"""Host everything on a Ray cluster of our own on this machine, from the first process to the last.

Never joins or ends another cluster, and shares no file or port with one. Two phases, because Ray ties the life of its
processes to the thread that started them: the cluster is started on the main thread, the rest runs on an event loop.
"""

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from attendant_server.auth import ApiKeyFileError, ApiKeys
from attendant_server.config import Settings
from attendant_server.gateway.tenants import Tenants
from attendant_server.hosting import ports, ray_environment
from attendant_server.hosting.banner import ready_text
from attendant_server.hosting.lifecycle import StopRequest
from attendant_server.hosting.log_pipe import LogPipe
from attendant_server.hosting.model_directory import ModelDirectory
from attendant_server.hosting.model_paths import ModelPathError
from attendant_server.hosting.orphans import adopt_orphans, end_children
from attendant_server.hosting.tls import TlsFileError, load_tls
from attendant_server.hosting.tls_front import TlsFrontError, tls_front, write_config

if TYPE_CHECKING:
    from attendant_server.hosting.cluster import Cluster

_HOSTS = ("127.0.0.1", "0.0.0.0")
"""HAProxy reaches the replicas on this machine through loopback, so Serve must listen there too."""

_NO_ABORTS = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
_END_TIMEOUT_S = 30.0
"""For Serve to end an application that has nothing left to do; it takes about five seconds."""
_LAST_PROCESS_TIMEOUT_S = 5.0


def run_on_ray(settings: Settings) -> int:
    """Serve until a signal asks for the end. Return the exit code: 0 after a drain, 1 after a sentence that says why not."""
    # Until the loop takes the signals over, SIGTERM unwinds the stack as Ctrl-C does; Ray does the same with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = _for_this_machine(settings)
        # Unix sockets lie in it, and their paths may have 107 characters at most: hence not where TMPDIR says.
        with tempfile.TemporaryDirectory(prefix="attendant-", dir="/tmp", ignore_cleanup_errors=True) as run_dir:
            return _run(settings, Path(run_dir))
    except (ports.PortInUseError, ApiKeyFileError, TlsFileError, TlsFrontError, ModelPathError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, SystemExit):
        return 0


def _run(settings: Settings, run_dir: Path) -> int:
    avoid = (settings.http_port, settings.grpc_port)
    os.environ.update(ray_environment.own_cluster(run_dir, drain_timeout_s=settings.drain_timeout_s, avoid_ports=avoid))
    # For this process alone: without it Ray answers a SIGTERM during its start with an abort and a trace.
    os.environ[_NO_ABORTS] = "1"
    # Only now: Ray reads its environment at import.
    from attendant_server.hosting.cluster import Cluster, DeploymentFailedError

    del os.environ[_NO_ABORTS]
    log = LogPipe(run_dir / "log")
    behind = _behind_tls(settings)
    cluster = Cluster(behind, run_dir, log_path=str(log.path))
    adopt_orphans()
    try:
        # Ray prints what it has to report on standard output, which is for what was asked for.
        with redirect_stdout(sys.stderr):
            cluster.start()
            asyncio.run(_serve_in_front(cluster, settings, behind, run_dir))
    except DeploymentFailedError as error:
        return _fail(str(error))
    finally:
        cluster.stop()
        end_children(_LAST_PROCESS_TIMEOUT_S)
        log.close()
    return 0


def _behind_tls(settings: Settings) -> Settings:
    """Return the settings for Serve: where TLS ends in front of it, it listens on loopback and other ports."""
    if settings.tls_cert is None:
        return settings
    http_port, grpc_port = ports.pick_free(_HOSTS[0], 2, avoid=(settings.http_port, settings.grpc_port))
    plain: dict[str, object] = {"tls_cert": None, "tls_key": None, "tls_client_ca": None}
    if settings.api_key_file is None and not ports.is_loopback(settings.host):
        plain["model_directory"] = None  # whoever reaches the front would be an administrator, and to Serve all come from loopback
    return settings.model_copy(update={"host": _HOSTS[0], "http_port": http_port, "grpc_port": grpc_port, **plain})


async def _serve_in_front(cluster: "Cluster", settings: Settings, behind: Settings, run_dir: Path) -> None:
    async with AsyncExitStack() as stack:
        if (tls := load_tls(settings)) is not None:
            await stack.enter_async_context(tls_front(write_config(run_dir, tls, front=settings, serve=behind)))
        await _serve(cluster, settings)


async def _serve(cluster: "Cluster", settings: Settings) -> None:
    stop = StopRequest()
    with stop.on_signals():
        is_in_time = True
        try:
            if await stop.run_unless_stopped(_start(cluster, settings)):
                await stop.wait()
                is_in_time = await stop.run_within(cluster.drain(), settings.drain_timeout_s)
        finally:
            # What did not end in time is not waited for once more: the cluster's processes are ended over it.
            if is_in_time:
                await stop.run_within(cluster.end_application(), _END_TIMEOUT_S)


async def _start(cluster: "Cluster", settings: Settings) -> None:
    await cluster.deploy()
    cards = await cluster.wait_ready()
    asks_keys = settings.api_key_file is not None
    text = ready_text(
        cards,
        host=settings.host,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        asks_keys=asks_keys,
        is_tls=settings.tls_cert is not None,
        is_mutual=settings.tls_client_ca is not None,
    )
    print(text, file=sys.__stdout__, flush=True)


def _for_this_machine(settings: Settings) -> Settings:
    """Return the settings with real ports and whole paths. Raises ``PortInUseError``, ``ModelPathError``, and for a file its error."""
    load_tls(settings)
    if settings.host not in _HOSTS:
        raise ports.PortInUseError(
            f"On Ray, --host must be {_HOSTS[0]} (this machine alone) or {_HOSTS[1]} (every address); {settings.host} is neither. "
            "With --local any address of this machine will do."
        )
    ports.require_free(settings.host, settings.http_port, flag="--http-port")
    ports.require_free(settings.host, settings.grpc_port, flag="--grpc-port")
    http_port, grpc_port = ports.pick_free(settings.host, 2, avoid=(settings.http_port, settings.grpc_port))
    changes: dict[str, object] = {"http_port": settings.http_port or http_port, "grpc_port": settings.grpc_port or grpc_port}
    if settings.api_key_file is not None:
        # Told here and at once what is wrong with it; a replica has another working directory.
        Tenants(settings.tenants, ApiKeys.load(settings.api_key_file).tenants)
        changes["api_key_file"] = str(Path(settings.api_key_file).resolve())
    if settings.model_directory is not None:
        changes["model_directory"] = ModelDirectory(settings.model_directory).path
    return settings.model_copy(update=changes)


def _fail(sentence: str) -> int:
    print(f"attendant: {sentence}", file=sys.stderr)  # noqa: T201 - the command's output
    return 1
