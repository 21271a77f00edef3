"""What each tenant has used, to the token: counted once, however often memory made the engine compute it again."""

from attendant_engine.stats import TenantUsage


class UsageLedger:
    """The tokens of one step, by tenant."""

    def __init__(self) -> None:
        self._prompt: dict[str, int] = {}
        self._cached: dict[str, int] = {}
        self._generated: dict[str, int] = {}

    def add_prompt(self, tenant: str, num_tokens: int) -> None:
        """Count prompt tokens that are computed for the first time."""
        self._prompt[tenant] = self._prompt.get(tenant, 0) + num_tokens

    def add_cached(self, tenant: str, num_tokens: int) -> None:
        """Count prompt tokens that were found in the prefix cache."""
        self._cached[tenant] = self._cached.get(tenant, 0) + num_tokens

    def add_generated(self, tenant: str, num_tokens: int) -> None:
        """Count tokens that were put out."""
        self._generated[tenant] = self._generated.get(tenant, 0) + num_tokens

    def take(self) -> tuple[TenantUsage, ...]:
        """Return what was counted since the last time, one entry a tenant that used anything."""
        usage = tuple(
            [
                TenantUsage(
                    tenant=tenant,
                    num_prompt_tokens=self._prompt.get(tenant, 0),
                    num_cached_prompt_tokens=self._cached.get(tenant, 0),
                    num_generated_tokens=self._generated.get(tenant, 0),
                )
                for tenant in {**self._prompt, **self._cached, **self._generated}
            ]
        )
        self._prompt.clear()
        self._cached.clear()
        self._generated.clear()
        return usage
