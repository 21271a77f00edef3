"""The engine replicas of one model as a gateway sees them, and which of them may take a request; ``routing`` decides which does.

Links come and go at runtime (``update``); a request keeps the link that it was sent to. Knows nothing of text.
"""

from collections.abc import Callable, Iterable

from attendant_engine.types import EngineRequest, ModelInfo, PoolingRequest
from attendant_server.errors import ServingError
from attendant_server.gateway.quarantine import Quarantine
from attendant_server.gateway.results import Receipt
from attendant_server.gateway.routing import Placement, RoutedReplica, Router
from attendant_server.link.base import ReplicaLink

NOT_READY_RETRY_AFTER_S = 1.0


def _nothing() -> None:
    """Nobody starts replicas."""


def _answers_like(info: ModelInfo | None, other: ModelInfo) -> bool:
    return info is not None and Receipt.of(info) == Receipt.of(other)


def _has_adapter(info: ModelInfo | None, request: EngineRequest) -> bool:
    return info is not None and isinstance(request, PoolingRequest) and any(adapter.name == request.adapter for adapter in info.adapters)


class ReplicaSet:
    """The links to one model's replicas, with this gateway's own count of requests on each.

    ``replacement_s``: how long requests may wait for a replica to become ready; 0 where nobody starts one. ``may_sleep``: having
    none is no fault, since the next request has one started. ``on_wanted`` is called whenever one is wanted and none is ready.
    ``quarantine`` is for requests that may have been the end of one.
    """

    def __init__(self, model: str, links: Iterable[ReplicaLink] = (), *, replacement_s: float = 0.0) -> None:
        self._model = model
        self.replacement_s = replacement_s
        self.quarantine = Quarantine()
        self.may_sleep = False
        self.on_wanted: Callable[[], None] = _nothing
        self._links: tuple[ReplicaLink, ...] = ()
        self._router = Router()
        self._routed: dict[ReplicaLink, RoutedReplica] = {}
        self._last_info: ModelInfo | None = None
        self.update(links)

    @property
    def links(self) -> tuple[ReplicaLink, ...]:
        """Every link, ready or not."""
        return self._links

    def update(self, links: Iterable[ReplicaLink]) -> None:
        """Replace the links; closing those that are gone is their owner's business."""
        self._links = tuple(links)
        for link in self._links:
            replica = self._routed.setdefault(link, RoutedReplica(link))
            if not replica.bit:
                self._router.join(replica)
        for link in set(self._routed).difference(self._links):
            if self._routed[link].bit:
                self._router.leave(self._routed[link])
            self._forget_if_done(self._routed[link])

    @property
    def info(self) -> ModelInfo | None:
        """What the model is, as the first replica that loaded it says; kept while replicas are replaced."""
        for link in self._links:
            if link.info is not None:
                self._last_info = link.info
                break
        return self._last_info

    @property
    def num_ready(self) -> int:
        """Replicas that would take a request now."""
        return sum(1 for link in self._links if link.is_ready)

    @property
    def is_available(self) -> bool:
        """Whether requests are taken: a replica is ready, or sleeps and will be woken."""
        return self.num_ready > 0 or (self.may_sleep and self.info is not None)

    @property
    def status(self) -> str:
        """Return "ready", or why no replica is."""
        if self.num_ready:
            return "ready"
        if self.may_sleep and not self._links:
            return "asleep: the next request starts a replica"
        return next((link.status for link in self._links), "no replica has started yet")

    def require_info(self) -> ModelInfo:
        """Return what the model is. Raises ``ServingError`` not_ready before any replica has loaded it."""
        info = self.info
        if info is None:
            raise self._not_ready()
        return info

    def pick(self, request: EngineRequest, *, avoid: ReplicaLink | None = None, like: ModelInfo | None = None) -> Placement:
        """Return the ready replica where ``request`` costs least, but ``avoid`` only when no other is ready. Raises not_ready.

        With ``like`` only those whose answers have the bits of a replica that said this of itself. A request for an adapter
        goes where that is loaded, if it is anywhere.
        """

        def is_ready(replica: RoutedReplica) -> bool:
            return replica.link.is_ready and (like is None or _answers_like(replica.link.info, like))

        def is_other(replica: RoutedReplica) -> bool:
            return replica.link is not avoid and is_ready(replica)

        def has_adapter(replica: RoutedReplica) -> bool:
            return is_other(replica) and _has_adapter(replica.link.info, request)

        needs_adapter = isinstance(request, PoolingRequest) and request.adapter is not None
        for fits in (*((has_adapter,) if needs_adapter else ()), is_other, is_ready):
            placement = self._router.pick(request, fits)
            if placement is not None:
                return placement
        raise self._not_ready()

    def num_in_flight(self, link: ReplicaLink) -> int:
        """Requests that this gateway has on ``link``."""
        replica = self._routed.get(link)
        return replica.num_in_flight if replica is not None else 0

    def begin(self, placement: Placement) -> None:
        """Count a request at the place that was picked for it."""
        self._router.begin(placement)

    def has_output(self, placement: Placement) -> None:
        """Count a request, which has had its first output, as queueing no more."""
        self._router.has_output(placement)

    def end(self, placement: Placement) -> None:
        """Count a request as over."""
        self._router.end(placement)
        self._forget_if_done(placement.replica)

    def _forget_if_done(self, replica: RoutedReplica) -> None:
        """Let a replaced link go when nothing is counted on it any more."""
        if not replica.bit and not replica.num_in_flight:
            self._routed.pop(replica.link, None)

    def _not_ready(self) -> ServingError:
        self.on_wanted()
        return ServingError(
            "not_ready", f"model '{self._model}' has no replica ready: {self.status}", retry_after_s=NOT_READY_RETRY_AFTER_S
        )
