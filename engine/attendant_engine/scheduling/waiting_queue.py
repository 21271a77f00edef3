"""What waits for a step, a list a tenant: which tenant's turn it is, and within it priority with ageing.

Between tenants the one that has had least goes first (``fair_share``), whatever priority it gives itself. Knows no blocks.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import attrgetter
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from attendant_engine.scheduling.fair_share import FairShares
from attendant_engine.service_order import Key
from attendant_engine.workload import NO_WORK, Work, Workload

_BY_KEY = attrgetter("key")
_NONE: Mapping[str, int] = MappingProxyType({})


class Waiting(Protocol):
    """A sequence or a text to pool."""

    @property
    def key(self) -> Key:
        """Its place, unique and fixed for as long as it lives."""
        ...

    @property
    def tenant(self) -> str:
        """For whom it is computed."""
        ...

    @property
    def work(self) -> Work:
        """What it takes when it begins to wait."""
        ...


WaitingT = TypeVar("WaitingT", bound=Waiting)


class WaitingQueue(Generic[WaitingT]):
    """What waits, of all tenants; ``shares`` counts what they have had, ``workload`` what they wait for."""

    def __init__(self, shares: FairShares, workload: Workload) -> None:
        self._shares = shares
        self._workload = workload
        self._queues: dict[str, list[WaitingT]] = {}
        self._work_of: dict[Key, Work] = {}

    def __len__(self) -> int:
        return len(self._work_of)

    def __iter__(self) -> Iterator[WaitingT]:
        return (item for queue in self._queues.values() for item in queue)

    def push(self, item: WaitingT) -> None:
        """Put ``item`` at its place."""
        insort(self._queues.setdefault(item.tenant, []), item, key=_BY_KEY)
        work = self._work_of[item.key] = item.work
        self._workload.add(item.tenant, self._shares.weight(item.tenant), work)

    def remove(self, item: WaitingT) -> None:
        """Take ``item``, which is here, out."""
        queue = self._queues[item.tenant]
        place = bisect_left(queue, item.key, key=_BY_KEY)
        assert queue[place] is item, "what was to leave the queue is not in it"
        del queue[place]
        if not queue:
            del self._queues[item.tenant]
        self._workload.remove(item.tenant, self._work_of.pop(item.key))

    def head(self, num_skipped: Mapping[str, int] = _NONE) -> WaitingT | None:
        """Return whose turn it is; of a tenant in ``num_skipped`` the item behind so many others of its own."""
        best: WaitingT | None = None
        best_rank: tuple[float, Key] | None = None
        for tenant, queue in self._queues.items():
            place = num_skipped.get(tenant, 0)
            if place < len(queue):
                rank = (self._shares.service(tenant), queue[place].key)
                if best_rank is None or rank < best_rank:
                    best, best_rank = queue[place], rank
        return best

    @property
    def work(self) -> Work:
        """The work of all that waits here."""
        return reduce(Work.plus, self._work_of.values(), NO_WORK)

    def check_integrity(self) -> None:
        """Assert that every list is in order and that the counts are right."""
        assert set(self._work_of) == {item.key for item in self}, "the queue has lost count"
        for tenant, queue in self._queues.items():
            keys = [item.key for item in queue]
            assert queue and keys == sorted(set(keys)), "a queue is out of order"
            assert all(item.tenant == tenant for item in queue), "an item waits in another tenant's queue"
