"""The engine deployment's class: one engine of one model, and the link's server through which gateways reach it.

Serve starts it, asks after its health, hands its address to every gateway and gives it time to finish. Requests never
come through Serve. Plain here; ``serve`` makes a deployment of it. The other ranks of a model that is shared out are children
of the replica's process, on its node, in what was reserved for it: they end with it, and when one ends the replica is
unhealthy and Serve replaces it as a whole. As actors of their own they would be placed, watched and ended by two owners.
"""

from typing import TYPE_CHECKING

import ray
from ray import serve

from attendant_engine.machine import available_cores
from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.compute_threads import size_compute_threads
from attendant_server.hosting.garbage import spare_what_is_loaded
from attendant_server.hosting.log_pipe import open_log
from attendant_server.link.base import ReplicaLoad
from attendant_server.link.server import LinkServer
from attendant_server.logging import configure_logging

if TYPE_CHECKING:
    from attendant_server.link.local import LocalLink

_CLOSE_GRACE_S = 0.5
"""For the last step messages to reach the gateways."""


class EngineReplica:
    """One engine of one model. Serve counts it as running when ``record_replica_metadata`` has returned."""

    def __init__(self, model: ModelSettings, settings: Settings, link_token: str, log_path: str | None = None) -> None:
        configure_logging(log_format=settings.log_format, level=settings.log_level, stream=open_log(log_path))
        resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        # Never more than the container has, whatever was reserved; an engine that came later has reserved nothing, and takes the
        # cores in turns with the others. What OMP_NUM_THREADS says here is Ray's, rounded down.
        num_cpus = min(resources.get("CPU", available_cores()), available_cores())
        self._num_torch_threads = size_compute_threads(num_cpus / settings.tensor_parallel, 1)
        self._model = model
        self._settings = settings
        self._link_token = link_token
        self._engine: LocalLink | None = None
        self._server: LinkServer | None = None

    async def record_replica_metadata(self) -> dict[str, str]:
        """Load the model and say where gateways can reach it. Raises what loading failed with."""
        from attendant_server.hosting.engine_settings import make_local_link

        replica_id: str = serve.get_replica_context().replica_id.unique_id
        self._engine = make_local_link(self._model, self._settings, replica_id=replica_id, num_torch_threads=self._num_torch_threads)
        self._engine.start()
        await self._engine.wait_loaded()
        if not self._engine.is_ready:
            raise RuntimeError(f"Model '{self._model.name}': {self._engine.status}")
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._server = LinkServer(self._engine, token=self._link_token)
        spare_what_is_loaded()
        port = await self._server.start(host)
        return {"link_address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}

    async def ping(self) -> None:
        """Answer a gateway's first call."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Say how busy it is, for Serve's autoscaling."""
        from attendant_server.hosting import autoscaling

        load = self._engine.load if self._engine is not None else ReplicaLoad()
        return {
            autoscaling.WAITING: load.num_queued_tokens + autoscaling.WAITING_SEQUENCE_TOKENS * load.num_waiting,
            autoscaling.CACHE: load.kv_cache_usage_ratio,
            autoscaling.SEQUENCES: float(load.num_running + load.num_waiting),
        }

    async def check_health(self) -> None:
        """Raise when the engine has failed or stands still, for Serve to replace this replica."""
        if self._engine is not None and self._engine.state != "draining" and not self._engine.is_ready:
            raise RuntimeError(self._engine.status)

    async def __del__(self) -> None:
        """Finish what runs, within the drain's limit; Serve does not count the link's requests."""
        if self._engine is None:
            return
        await self._engine.drain(self._settings.drain_timeout_s)
        if self._server is not None:
            await self._server.stop(_CLOSE_GRACE_S)
        await self._engine.close()
