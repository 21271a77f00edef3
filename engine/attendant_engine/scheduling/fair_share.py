"""Who has had how much: tokens computed for each tenant, divided by its weight, on one virtual clock.

Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models"), which is start-time fair queueing
(Goyal et al. 1996) for work whose length nobody knows beforehand. A tenant that comes back is set beside those at work,
a little ahead: what it left unused it may use at once, but not save up. Knows no queues and no blocks.
"""

from collections import Counter

CREDIT_TOKENS = 4096
"""How far a tenant that comes back may be ahead of who has had most, times its weight: a few prompts' worth."""


class FairShares:
    """The tenants' service so far. A tenant is active while it has live sequences, each entered once and left once."""

    def __init__(self) -> None:
        self._service: dict[str, float] = {}
        self._weight: dict[str, float] = {}
        self._num_live: Counter[str] = Counter()

    @property
    def num_active(self) -> int:
        """Tenants with live sequences."""
        return len(self._num_live)

    @property
    def is_shared(self) -> bool:
        """Whether more than one tenant has been at work since nobody was."""
        return len(self._service) > 1

    def service(self, tenant: str) -> float:
        """Return the tenant's tokens so far over its weight; who has least goes first."""
        return self._service[tenant]

    def weight(self, tenant: str) -> float:
        """Return the share of an active tenant beside others'."""
        return self._weight[tenant]

    def enter(self, tenant: str, weight: float) -> None:
        """Count a live sequence more; its request says the weight."""
        self._weight[tenant] = weight
        if tenant not in self._num_live:
            floor = max((self._service[other] for other in self._num_live), default=CREDIT_TOKENS) - CREDIT_TOKENS
            self._service[tenant] = max(self._service.get(tenant, floor), floor)
        self._num_live[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Count a live sequence less."""
        self._num_live[tenant] -= 1
        if self._num_live[tenant] == 0:
            del self._num_live[tenant]
        if not self._num_live:
            # Nobody is left to be fair to: what is forgotten here bounds what is kept.
            self._service.clear()
            self._weight.clear()

    def charge(self, tenant: str, num_tokens: int) -> None:
        """Count tokens computed for an active tenant."""
        self._service[tenant] += num_tokens / self._weight[tenant]
