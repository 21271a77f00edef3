"""Faults of transport on purpose, for tests: a replica whose links break when a certain token reaches it."""

from collections.abc import Callable, Sequence

from attendant_engine.engine import Engine
from attendant_engine.faults import Fault
from attendant_engine.types import EngineRequest
from attendant_server.link.base import OutputSink
from attendant_server.link.local import LocalLink
from attendant_server.metrics import ReplicaMetrics


class FaultyLink(LocalLink):
    """A ``LocalLink`` that raises on requests with the tokens of ``faults``; a ``LinkServer`` before it then drops its gateway."""

    def __init__(self, load: Callable[[], Engine], *, replica_id: str, metrics: ReplicaMetrics, faults: Sequence[Fault]) -> None:
        super().__init__(load, replica_id=replica_id, metrics=metrics)
        self._cuts = {fault.token_id for fault in faults if fault.phase == "link"}

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Send a request, or break."""
        if not self._cuts.isdisjoint(request.prompt_token_ids):
            raise ConnectionResetError("a fault that was asked for")
        super().submit(request, sink)
