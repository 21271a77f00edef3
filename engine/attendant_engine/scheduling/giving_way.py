"""Which running sequence makes place when seats or blocks run out.

Between tenants it is one of who holds most for its weight, within a tenant the last in its order of service. With one
tenant that is the last of all, so that the first always gets on.
"""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Collection
from operator import attrgetter

from attendant_engine.scheduling.fair_share import FairShares
from attendant_engine.sequence import Sequence

_BY_KEY = attrgetter("key")


def last_in_line(candidates: Collection[Sequence], shares: FairShares) -> Sequence:
    """Return which of the running ``candidates``, one at least, is preempted for want of blocks."""
    num_blocks: Counter[str] = Counter()
    for sequence in candidates:
        num_blocks[sequence.tenant] += len(sequence.block_ids)
    return _last_of(_greediest(num_blocks, shares), candidates)


def gives_way_to(
    waiting: Sequence, candidates: Collection[Sequence], num_running_of: Mapping[str, int], shares: FairShares
) -> Sequence | None:
    """Return which of the running ``candidates`` is preempted so that ``waiting``, whose turn it is, is admitted; None for none.

    One behind it of its own tenant with a lower priority; or, where its tenant has nothing running, one of the tenant with
    most seats for its weight, if that has more than this one even then. ``num_running_of`` counts all that run, by tenant.
    """
    own = [s for s in candidates if s.tenant == waiting.tenant and s.priority > waiting.priority and s.key > waiting.key]
    if own:
        return max(own, key=_BY_KEY)
    if not candidates or waiting.tenant in num_running_of:
        return None
    tenant = _greediest(Counter(sequence.tenant for sequence in candidates), shares)
    left = (num_running_of[tenant] - 1) / shares.weight(tenant)
    is_entitled = shares.service(waiting.tenant) < shares.service(tenant) and left >= 1 / shares.weight(waiting.tenant)
    return _last_of(tenant, candidates) if is_entitled else None


def _greediest(held: Mapping[str, int], shares: FairShares) -> str:
    """Return the tenant that holds most for its weight."""
    return max(held, key=lambda tenant: (held[tenant] / shares.weight(tenant), tenant))


def _last_of(tenant: str, candidates: Collection[Sequence]) -> Sequence:
    return max((sequence for sequence in candidates if sequence.tenant == tenant), key=_BY_KEY)
