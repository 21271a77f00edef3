"""The engine requests of one call, spread over replicas, with one slot where all their outputs gather.

The reader takes everything that waits at once: the first output immediately, later ones merged, so that a slow reader
costs memory for its tokens alone. A request lost with its replica before it gave anything is sent to another, once.
"""

import asyncio
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.link.base import ReplicaLink
from attendant_server.link.pending import PendingOutputs


class RequestIds:
    """Makes engine request ids that are unique in the application, whatever callers name their requests."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:16]
        self._counter = itertools.count(1)

    def make(self) -> str:
        """Return a new id."""
        return f"{self._prefix}-{next(self._counter):x}"


@dataclass(slots=True, eq=False)
class Affinity:
    """Keeps the requests of one call on one replica while that is ready, for the sake of a prefix that it has cached."""

    home: ReplicaLink | None = None


@dataclass(slots=True, eq=False)
class _Ticket:
    """One request on its way."""

    request: EngineRequest
    link: ReplicaLink
    num_open: int
    has_output: bool = False
    is_second_try: bool = False


class InFlight:
    """What one call has running on engines. Ends with ``close``, which aborts whatever is still running.

    ``affinity`` may be shared by several of these. ``on_failover`` is called for each request that was moved.
    """

    def __init__(self, replicas: ReplicaSet, *, affinity: Affinity | None = None, on_failover: Callable[[], None] | None = None) -> None:
        self._replicas = replicas
        self._affinity = affinity
        self._on_failover = on_failover
        self._tickets: dict[str, _Ticket] = {}
        self._pending = PendingOutputs()
        self._arrived = asyncio.Event()

    @property
    def num_open(self) -> int:
        """Requests whose last output has not arrived."""
        return len(self._tickets)

    def submit(self, request: EngineRequest) -> None:
        """Send ``request``. Raises ``ServingError`` not_ready when no replica can take it."""
        home = self._affinity.home if self._affinity is not None else None
        link = home if home is not None and home.is_ready else self._replicas.pick()
        if self._affinity is not None:
            self._affinity.home = link
        num_open = request.n if isinstance(request, GenerationRequest) else 1
        self._send(_Ticket(request=request, link=link, num_open=num_open))

    async def take(self, deadline: Deadline) -> list[EngineOutput]:
        """Wait for outputs and take all there are. Raises deadline_exceeded."""
        if not self._arrived.is_set():
            await deadline.guard(self._arrived.wait())
        self._arrived.clear()
        deadline.check()
        return self._pending.take()

    def abort(self, request_id: str) -> None:
        """Stop a request and forget its outputs; unknown ids are ignored."""
        ticket = self._tickets.pop(request_id, None)
        if ticket is not None:
            ticket.link.abort(request_id)
            self._replicas.end(ticket.link)
        self._pending.discard(request_id)

    def close(self) -> None:
        """Abort everything that still runs; calling it again does nothing."""
        for request_id in list(self._tickets):
            self.abort(request_id)

    def _send(self, ticket: _Ticket) -> None:
        request_id = ticket.request.request_id
        self._tickets[request_id] = ticket
        self._replicas.begin(ticket.link)
        try:
            ticket.link.submit(ticket.request, partial(self._on_output, ticket))
        except BaseException:
            self._tickets.pop(request_id, None)
            self._replicas.end(ticket.link)
            raise

    def _on_output(self, ticket: _Ticket, output: EngineOutput) -> None:
        request_id = output.request_id
        if self._tickets.get(request_id) is not ticket:
            return
        if output.error is not None and output.error.code == "not_ready" and self._try_elsewhere(ticket):
            return
        ticket.has_output = True
        if output.error is not None:
            ticket.num_open = 0
        elif not isinstance(output, SequenceOutput) or output.finish_reason is not None:
            ticket.num_open -= 1
        if ticket.num_open <= 0:
            del self._tickets[request_id]
            self._replicas.end(ticket.link)
        self._pending.add(output)
        self._arrived.set()

    def _try_elsewhere(self, ticket: _Ticket) -> bool:
        """Send a request that gave nothing yet to another replica; nobody has seen anything of it, so nobody can tell."""
        if ticket.has_output or ticket.is_second_try:
            return False
        del self._tickets[ticket.request.request_id]
        self._replicas.end(ticket.link)
        try:
            link = self._replicas.pick(avoid=ticket.link)
            self._send(_Ticket(request=ticket.request, link=link, num_open=ticket.num_open, is_second_try=True))
        except ServingError:
            self._tickets[ticket.request.request_id] = ticket
            self._replicas.begin(ticket.link)
            return False
        if self._on_failover is not None:
            self._on_failover()
        return True
