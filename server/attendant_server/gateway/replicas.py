"""The engine replicas of one model as a gateway sees them, and which one a request goes to.

Links come and go at runtime (``update``); a request keeps the link that it was sent to. Knows nothing of text.
"""

from collections.abc import Iterable

from attendant_engine.types import ModelInfo
from attendant_server.errors import ServingError
from attendant_server.gateway.results import Receipt
from attendant_server.link.base import ReplicaLink

NOT_READY_RETRY_AFTER_S = 1.0


def _answers_like(info: ModelInfo | None, other: ModelInfo) -> bool:
    return info is not None and Receipt.of(info) == Receipt.of(other)


class ReplicaSet:
    """The links to one model's replicas, with this gateway's own count of requests on each.

    ``replacement_s``: how long what a lost replica had may wait for another to become ready; 0 where nobody replaces it.
    """

    def __init__(self, model: str, links: Iterable[ReplicaLink] = (), *, replacement_s: float = 0.0) -> None:
        self._model = model
        self.replacement_s = replacement_s
        self._links: tuple[ReplicaLink, ...] = tuple(links)
        self._num_in_flight: dict[ReplicaLink, int] = {}
        self._last_info: ModelInfo | None = None
        self._turn = 0

    @property
    def links(self) -> tuple[ReplicaLink, ...]:
        """Every link, ready or not."""
        return self._links

    def update(self, links: Iterable[ReplicaLink]) -> None:
        """Replace the links; closing those that are gone is their owner's business."""
        self._links = tuple(links)

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
    def status(self) -> str:
        """Return "ready", or why no replica is."""
        if self.num_ready:
            return "ready"
        return next((link.status for link in self._links), "no replica has started yet")

    def require_info(self) -> ModelInfo:
        """Return what the model is. Raises ``ServingError`` not_ready before any replica has loaded it."""
        info = self.info
        if info is None:
            raise self._not_ready()
        return info

    def pick(self, *, avoid: ReplicaLink | None = None, like: ModelInfo | None = None) -> ReplicaLink:
        """Return the ready link with the least to do, but ``avoid`` only when no other is ready. Raises not_ready.

        With ``like`` only those whose answers have the bits of a replica that said this of itself.
        """
        ready = [link for link in self._links if link.is_ready and (like is None or _answers_like(link.info, like))]
        ready = [link for link in ready if link is not avoid] or ready
        if not ready:
            raise self._not_ready()
        self._turn += 1
        # The replica's own figure covers other gateways but is a heartbeat old; ours is of this moment. Ties take turns.
        return min(
            (ready[(self._turn + place) % len(ready)] for place in range(len(ready))),
            key=lambda link: max(self.num_in_flight(link), link.load.num_running + link.load.num_waiting),
        )

    def num_in_flight(self, link: ReplicaLink) -> int:
        """Requests that this gateway has on ``link``."""
        return self._num_in_flight.get(link, 0)

    def begin(self, link: ReplicaLink) -> None:
        """Count a request on ``link``."""
        self._num_in_flight[link] = self.num_in_flight(link) + 1

    def end(self, link: ReplicaLink) -> None:
        """Count a request on ``link`` as over."""
        left = self.num_in_flight(link) - 1
        assert left >= 0, "more requests ended on a link than began"
        if left:
            self._num_in_flight[link] = left
        else:
            # A replaced link must not be kept alive by its count.
            del self._num_in_flight[link]

    def _not_ready(self) -> ServingError:
        return ServingError(
            "not_ready", f"model '{self._model}' has no replica ready: {self.status}", retry_after_s=NOT_READY_RETRY_AFTER_S
        )
