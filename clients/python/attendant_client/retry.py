"""When to try again, and how long to wait first: exponential backoff with jitter, inside the call's deadline.

Every task is safe to repeat: a request changes nothing on the server.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attendant_client.connection import Connection
from attendant_client.errors import AttendantError, ConnectionFailedError, NotReadyError
from attendant_client.rpc_errors import error_from_rpc, is_worth_another_try, was_reached

_RECOVERY_BACKOFF_S = 1.0  # at most, while a server is awaited that was there: it starts within seconds

_RENEW_AFTER = 3
"""Failures in a row that a call blames on its server; from then on it suspects its own connection (see ``channel``)."""
_RENEW_EVERY_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most ``max_attempts`` calls; the k-th retry waits about ``initial_backoff_s`` * 2^(k-1), at most ``max_backoff_s``.

    A server's own ``RetryInfo`` is the least that is waited. ``RetryPolicy(max_attempts=1)`` never retries.
    A server that was there and is lost, in the middle of a call or between two, is waited for ``recover_within_s``,
    however many attempts that takes: so long may another gateway take to start in its place.
    """

    max_attempts: int = 4
    initial_backoff_s: float = 0.2
    max_backoff_s: float = 5.0
    recover_within_s: float = 60.0


class Contact:
    """Whether a client's server has ever answered it, and the way to a fresh connection; one a client, shared by its calls."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self.was_made = False
        self._renew = renew
        self._may_renew_from_s = 0.0

    def renew(self) -> None:
        """Ask for a fresh connection; many calls that fail together get one."""
        now_s = time.monotonic()
        if now_s >= self._may_renew_from_s:
            self._may_renew_from_s = now_s + _RENEW_EVERY_S
            self._renew()


class Attempts:
    """The attempts of one call: what each is called with, and whether another follows a failure."""

    def __init__(
        self,
        connection: Connection,
        policy: RetryPolicy,
        *,
        timeout_s: float | None,
        request_id: str | None,
        contact: Contact,
    ) -> None:
        self._connection = connection
        self._policy = policy
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._request_id = request_id or uuid.uuid4().hex
        self._contact = contact
        self._num_attempts = 0
        self._num_failed = 0  # since anything last came
        self._has_begun = False
        self._recover_until_s: float | None = None

    @property
    def request_id(self) -> str:
        """The id of the attempt at hand; a retry has one of its own, since the server may still be busy with the first."""
        return f"{self._request_id}.{self._num_attempts}" if self._num_attempts else self._request_id

    @property
    def address(self) -> str:
        """Where the calls go."""
        return self._connection.address

    def arguments(self) -> dict[str, Any]:
        """Return what gRPC's call takes beside the request. The timeout is metadata too: not every proxy forwards gRPC's own."""
        remaining_s = self._remaining_s()
        metadata = [*self._connection.metadata, ("x-request-id", self.request_id)]
        if remaining_s is not None:
            metadata.append(("x-request-timeout-s", f"{remaining_s:.3f}"))
        return {"timeout": remaining_s, "metadata": metadata}

    def succeeded(self) -> None:
        """Note that the server has answered, or gone on with its answer: a failure after that is the first again."""
        self._contact.was_made = True
        self._has_begun = True
        self._num_failed = 0
        self._recover_until_s = None

    def failed(self, rpc_error: Any, *, may_retry: bool = True) -> float:
        """Return the seconds to wait before the next attempt; raise the error as ours if there is none."""
        error = error_from_rpc(rpc_error, address=self.address, request_id=self.request_id)
        try:
            return self.failed_with(error, was_reached=was_reached(rpc_error), may_retry=may_retry)
        except AttendantError:
            raise error from rpc_error

    def failed_with(self, error: AttendantError, *, was_reached: bool, may_retry: bool) -> float:
        """Do the same for an error of ours; ``was_reached``: a server, or a proxy before it, had taken the call."""
        self._num_attempts += 1
        self._num_failed += 1
        now_s = time.monotonic()
        if isinstance(error, NotReadyError):
            self._contact.was_made = True
        is_lost = isinstance(error, ConnectionFailedError) and (was_reached or self._contact.was_made)
        if self._recover_until_s is None and (is_lost or self._has_begun):
            self._recover_until_s = now_s + self._policy.recover_within_s
        if not may_retry or self._policy.max_attempts <= 1 or not is_worth_another_try(error):
            raise error
        is_recovering = self._recover_until_s is not None and now_s < self._recover_until_s
        if self._num_failed >= self._policy.max_attempts and not is_recovering:
            raise error
        if is_lost and self._num_failed >= _RENEW_AFTER:
            self._contact.renew()
        ceiling_s = min(self._policy.max_backoff_s, self._policy.initial_backoff_s * 2 ** min(self._num_failed - 1, 30))
        if is_recovering:
            ceiling_s = min(ceiling_s, _RECOVERY_BACKOFF_S)
        # Half fixed, half random: callers that failed together do not come back together.
        wait_s: float = max(error.retry_after_s or 0.0, ceiling_s * (0.5 + 0.5 * random.random()))
        remaining_s = self._remaining_s()
        if remaining_s is not None and wait_s >= remaining_s:
            raise error
        return wait_s

    def _remaining_s(self) -> float | None:
        return None if self._deadline_s is None else max(0.001, self._deadline_s - time.monotonic())
