"""The Ray cluster and the Serve application of one ``attendant serve``: started, watched until ready, drained, ended.

Imports Ray, hence only after ``ray_environment`` was applied.
"""

import asyncio
import logging
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, LoggingConfig

from attendant_server.config import Settings
from attendant_server.gateway.results import ModelCard
from attendant_server.hosting import ports
from attendant_server.hosting.ray_failures import what_failed
from attendant_server.hosting.serve import GRPC_SERVICER_FUNCTIONS, make_application

_APPLICATION = "attendant"
_OBJECT_STORE_BYTES = 80 << 20
"""Nearly Ray's least: nothing of ours goes through it."""
_POLL_S = 0.1


class DeploymentFailedError(Exception):
    """The application did not start; the message says what Serve says."""


class Cluster:
    """One cluster on this machine with one application. Started and stopped on the main thread."""

    def __init__(self, settings: Settings, run_dir: Path, *, log_path: str) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._log_path = log_path
        self._deployment: asyncio.Future[None] | None = None
        self._gateway: DeploymentHandle[Any] | None = None

    def start(self) -> None:
        """Start the cluster's processes; on the main thread, for they end with the thread that started them."""
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._run_dir / "ray"),
            )
        except Exception as error:
            # Whatever it is, the operator can do nothing with Ray's trace.
            raise DeploymentFailedError(f"Ray could not be started on this machine: {what_failed(str(error))}") from error

    async def deploy(self) -> None:
        """Start Serve and hand it the application; returns before that is ready."""
        self._deployment = asyncio.ensure_future(asyncio.to_thread(self._deploy))
        await asyncio.shield(self._deployment)

    def _deploy(self) -> None:
        settings = self._settings
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if settings.device == "cuda" and not resources.get("GPU"):
            raise DeploymentFailedError("--device is cuda and Ray sees no GPU on this machine; use cpu or auto.")
        serve.start(
            http_options=HTTPOptions(host=settings.host, port=settings.http_port),
            grpc_options=gRPCOptions(
                port=settings.grpc_port,
                grpc_servicer_functions=GRPC_SERVICER_FUNCTIONS,
                # Serve's own answers without asking our handlers, so with keys there is none.
                enable_reflection=settings.api_key_file is None,
            ),
            logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        )
        target = serve.RunTarget(target=make_application(settings, log_path=self._log_path), name=_APPLICATION, route_prefix="/")
        (self._gateway,) = serve.run_many([target], wait_for_applications_running=False)

    async def wait_ready(self) -> tuple[ModelCard, ...]:
        """Return the models' cards when both ports answer and every model has a replica. Raises ``DeploymentFailedError``."""
        url = f"http://{ports.reachable(self._settings.host)}:{self._settings.http_port}/ready"
        async with httpx.AsyncClient(timeout=5) as client:
            while not await _answers(client, url):
                await asyncio.to_thread(self._check_deployment)
                await asyncio.sleep(_POLL_S)
        assert self._gateway is not None, "nothing was deployed"
        cards: tuple[ModelCard, ...] = await self._gateway.models.remote()
        return cards

    async def drain(self) -> None:
        """Have the gateway refuse new calls, and return when the running ones have ended."""
        if self._gateway is not None:
            await self._gateway.drain.remote()

    async def end_application(self) -> None:
        """End the application and Serve; calls that still run get the drain's limit again."""
        if self._deployment is not None:
            # A deployment that was asked to stop half-way must be whole before it can be ended.
            await asyncio.wait((self._deployment,))
            # Ray reports the end of Serve's controller, which ends itself, as a failed task.
            with redirect_stdout(StringIO()):
                await serve.shutdown_async()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End every process of the cluster, at once."""
        ray.shutdown()

    def _check_deployment(self) -> None:
        application = serve.status().applications.get(_APPLICATION)
        if application is None or application.status not in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            return
        messages = [deployment.message for deployment in application.deployments.values() if deployment.message]
        raise DeploymentFailedError(" ".join(dict.fromkeys(map(what_failed, messages or [application.message]))))


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
