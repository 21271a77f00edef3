"""What the operator grants each tenant: its weight beside others, and tokens a minute.

A tenant that is over its tokens waits until a minute's allowance has made up for it: calls are let in while nothing is
owed, and owe what they used when they end, so that over time nobody gets more. One gateway's count; several grant it each.
"""

import time
from collections.abc import Iterable, Mapping

from attendant_server.auth import ApiKeyFileError
from attendant_server.config import TenantSettings
from attendant_server.errors import ServingError

_DEFAULT = TenantSettings()


class Tenants:
    """The tenants of one gateway; those that ``granted`` does not name have weight 1 and no limit.

    Raises ``ApiKeyFileError`` for a name in ``granted`` that is not among ``known``, those with a key.
    """

    def __init__(self, granted: Mapping[str, TenantSettings] | None = None, known: Iterable[str] = ()) -> None:
        self._granted = dict(granted or {})
        self._allowances: dict[str, _Allowance] = {}
        names = tuple(known)
        for name, tenant in self._granted.items():
            if name not in names:
                raise ApiKeyFileError(f"the setting tenants names {name!r}, which has no key in the API key file; add one or take it out")
            if tenant.tokens_per_minute is not None:
                self._allowances[name] = _Allowance(tenant.tokens_per_minute)

    def weight(self, name: str) -> float:
        """Return a tenant's share beside others."""
        return self._granted.get(name, _DEFAULT).weight

    def check(self, name: str) -> None:
        """Raise ``ServingError`` queue_full while a tenant owes tokens."""
        allowance = self._allowances.get(name)
        owed = 0.0 if allowance is None else allowance.owed()
        if allowance is not None and owed > 0:
            raise ServingError(
                "queue_full",
                f"tenant '{name}' has used its {allowance.tokens_per_minute} tokens a minute and {owed:.0f} beyond; try again later",
                retry_after_s=60 * owed / allowance.tokens_per_minute,
            )

    def spend(self, name: str, num_tokens: int) -> None:
        """Count what a tenant's call has used."""
        if name in self._allowances:
            self._allowances[name].spend(num_tokens)


class _Allowance:
    """A token bucket that holds one minute's tokens and may be overdrawn."""

    def __init__(self, tokens_per_minute: int) -> None:
        self.tokens_per_minute = tokens_per_minute
        self._left = float(tokens_per_minute)
        self._at_s = time.monotonic()

    def owed(self) -> float:
        """Return the tokens that are missing now, 0 for none."""
        self._refill()
        return max(0.0, -self._left)

    def spend(self, num_tokens: int) -> None:
        self._refill()
        self._left -= num_tokens

    def _refill(self) -> None:
        now_s = time.monotonic()
        self._left = min(self.tokens_per_minute, self._left + (now_s - self._at_s) * self.tokens_per_minute / 60)
        self._at_s = now_s
