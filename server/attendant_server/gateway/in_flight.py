"""The engine requests of one call, spread over replicas, with one slot where all their outputs gather.

The reader takes everything that waits at once: the first output immediately, later ones merged, so that a slow reader
costs memory for its tokens alone. What a lost replica had goes on at another, from the token after the last one that
came (see ``moving``), and the reader cannot tell. While no replica is ready, what is new waits as well as what was lost.
"""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from attendant_engine.types import EngineOutput, EngineRequest, ModelInfo, OutputError, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline, Terms
from attendant_server.gateway.moving import Progress
from attendant_server.gateway.quarantine import SETTLE_S, is_death
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.gateway.routing import PickReason, Placement
from attendant_server.link.base import ReplicaLink
from attendant_server.link.pending import PendingOutputs
from attendant_server.logging import log_event

MAX_MOVES = 3
"""Replicas that a request may lose without a token from the next in between."""

_RETRY_S = 0.05  # between two looks whether a replica has become ready
_GUILTY = OutputError(
    code="server_error", message="the replica that worked on this request failed, and so did the one that tried it again; it is given up"
)

_log = logging.getLogger(__name__)


class RequestIds:
    """Makes engine request ids that are unique in the application, whatever callers name their requests."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:16]
        self._counter = itertools.count(1)

    def make(self) -> str:
        """Return a new id."""
        return f"{self._prefix}-{next(self._counter):x}"


@dataclass(slots=True, eq=False)
class _Leg:
    """A request, or one sequence of it that has moved, on a replica. ``num_open`` sequences have not ended.

    ``is_suspect``: it has the replica's place in quarantine until it ``has_output``.
    """

    request: EngineRequest
    placement: Placement
    served_by: ModelInfo | None
    num_open: int
    has_output: bool = False
    is_suspect: bool = False

    @property
    def link(self) -> ReplicaLink:
        """Where it is."""
        return self.placement.link


class _Ticket:
    """One request of the call: how far it has got, where what is left of it runs, and how many parts wait for a replica."""

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.progress = Progress(request)
        self.legs: dict[str, _Leg] = {}
        self.num_moves = 0  # since anything last came
        self.num_ever_moved = 0
        self.num_waiting = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Homeless:
    """Parts of a request that are on no replica; ``lost``: where they were, None for a new request.

    ``suspect_until_s`` (monotonic) is set where they may have been the end of it: they go nowhere before, and then alone.
    """

    ticket: _Ticket
    requests: list[EngineRequest]
    lost: _Leg | None
    suspect_until_s: float | None = None


class InFlight:
    """What one call has running on engines. Ends with ``close``, which aborts whatever is still running.

    ``terms`` are the call's. ``on_failover`` is called for each request that was moved, ``on_pick`` with the reason for each
    choice of a replica. All of a call is answered by replicas of one kind: that of ``served_by``, or else of the first used.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        *,
        terms: Terms | None = None,
        on_failover: Callable[[], None] | None = None,
        on_pick: Callable[[PickReason], None] | None = None,
        served_by: ModelInfo | None = None,
    ) -> None:
        self.served_by = served_by
        self._replicas = replicas
        self._terms = terms or Terms()
        self._on_pick = on_pick
        self._on_failover = on_failover
        self._tickets: dict[str, _Ticket] = {}
        self._pending = PendingOutputs()
        self._arrived = asyncio.Event()

    @property
    def num_open(self) -> int:
        """Requests whose last output has not arrived."""
        return len(self._tickets)

    def submit(self, request: EngineRequest) -> None:
        """Send ``request``. Raises ``ServingError`` not_ready when no replica can take it and none is on its way."""
        request = self._terms.apply(request)
        ticket = _Ticket(request)
        self._tickets[request.request_id] = ticket
        try:
            self._place(_Homeless(ticket, [request], lost=None))
        except BaseException:
            del self._tickets[request.request_id]
            raise

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
            self._stop(ticket)
        self._pending.discard(request_id)

    def close(self) -> None:
        """Abort everything that still runs; calling it again does nothing."""
        for request_id in list(self._tickets):
            self.abort(request_id)

    def _send(self, ticket: _Ticket, request: EngineRequest, placement: Placement, *, is_suspect: bool) -> None:
        link = placement.link
        leg = _Leg(
            request=request,
            placement=placement,
            served_by=link.info,
            num_open=Progress.num_sequences(request),
            is_suspect=is_suspect,
        )
        ticket.legs[request.request_id] = leg
        self.served_by = self.served_by or link.info
        self._replicas.begin(placement)
        if self._on_pick is not None:
            self._on_pick(placement.reason)
        try:
            link.submit(request, partial(self._on_output, ticket, leg))
        except BaseException:
            self._end_leg(ticket, leg)
            raise

    def _on_output(self, ticket: _Ticket, leg: _Leg, output: EngineOutput) -> None:
        if ticket.legs.get(leg.request.request_id) is not leg:
            return
        if output.error is not None:
            is_lost = output.error.code == "not_ready"
            is_dead = is_lost and is_death(leg.link, output.error.message)
            if is_dead and leg.is_suspect:
                log_event(_log, logging.ERROR, "a request was given up: two replicas were lost with it", replica=leg.link.replica_id)
                output = ticket.progress.failure(_GUILTY)
            elif is_lost and self._move(ticket, leg, is_dead=is_dead):
                return
            output = ticket.progress.as_own(output)
            self._tickets.pop(ticket.request.request_id, None)
            self._end_leg(ticket, leg)
            self._stop(ticket)
        else:
            ticket.num_moves = 0
            output = ticket.progress.note(output)
            if not leg.has_output:
                self._take_first_output(leg)
            if not isinstance(output, SequenceOutput) or output.finish_reason is not None:
                leg.num_open -= 1
            if leg.num_open <= 0:
                self._end_leg(ticket, leg)
            if not ticket.legs and not ticket.num_waiting:
                self._tickets.pop(ticket.request.request_id, None)
        self._give(output)

    def _move(self, ticket: _Ticket, lost: _Leg, *, is_dead: bool) -> bool:
        """Let what ``lost`` had go on at other replicas; say whether it could be sent there."""
        if ticket.num_moves >= MAX_MOVES:
            return False
        ticket.num_moves += 1
        ticket.num_ever_moved += 1
        requests = list(ticket.progress.remaining(lost.request, ticket.num_ever_moved))
        # Where nobody replaces replicas there is nothing to wait for.
        is_suspect = is_dead and not lost.has_output and self._replicas.replacement_s > 0
        try:
            self._place(_Homeless(ticket, requests, lost, time.monotonic() + SETTLE_S if is_suspect else None))
        except ServingError:
            return False
        self._end_leg(ticket, lost)
        log_event(
            _log,
            logging.WARNING,
            "a request was lost with its replica and goes on elsewhere",
            replica=lost.link.replica_id,
            num_tokens=ticket.progress.num_tokens,
        )
        if self._on_failover is not None:
            self._on_failover()
        return True

    def _place(self, homeless: _Homeless) -> None:
        """Send what is homeless, now or once a replica is ready. Raises not_ready where no replica is to be waited for."""
        homeless.ticket.num_waiting += len(homeless.requests)
        try:
            self._send_homeless(homeless)
        except ServingError:
            if self._replicas.replacement_s <= 0:
                raise
            self._retry_later(homeless, time.monotonic() + self._replicas.replacement_s)

    def _send_homeless(self, homeless: _Homeless) -> None:
        """Send parts, each off the list as it goes. Raises not_ready."""
        while homeless.requests:
            request = homeless.requests[0]
            placement = self._pick(request, homeless.lost)
            if homeless.suspect_until_s is not None:
                self._enter_quarantine(homeless, placement.link, homeless.suspect_until_s)
            self._send(homeless.ticket, request, placement, is_suspect=homeless.suspect_until_s is not None)
            homeless.ticket.num_waiting -= 1
            del homeless.requests[0]
        self._replicas.quarantine.step_out(homeless)

    def _enter_quarantine(self, homeless: _Homeless, link: ReplicaLink, until_s: float) -> None:
        """Raise not_ready as long as a suspect has to wait for its place on ``link``."""
        quarantine = self._replicas.quarantine
        if time.monotonic() >= until_s:
            if quarantine.enter(link):
                return
            quarantine.stand_in_line(homeless, partial(self._retry_now, homeless))
        raise ServingError("not_ready", "what may have ended a replica waits to be tried alone")

    def _take_first_output(self, leg: _Leg) -> None:
        """Take in that a replica has lived to say something of ``leg``."""
        leg.has_output = True
        self._replicas.has_output(leg.placement)
        if leg.is_suspect:
            leg.is_suspect = False
            self._replicas.quarantine.leave(leg.link)

    def _pick(self, request: EngineRequest, lost: _Leg | None) -> Placement:
        """Return a place, for what was lost at another replica that answers as the one did that lost it. Raises not_ready."""
        if lost is not None:
            return self._replicas.pick(request, avoid=lost.link, like=lost.served_by)
        return self._replicas.pick(request, like=self.served_by)

    def _retry_later(self, homeless: _Homeless, until_s: float) -> None:
        asyncio.get_running_loop().call_later(_RETRY_S, self._retry, homeless, until_s)

    def _retry(self, homeless: _Homeless, until_s: float) -> None:
        """Send what waits for a replica, or report the want of one when none has come in time."""
        error = self._retry_now(homeless)
        if error is None:
            return
        if time.monotonic() < until_s:
            self._retry_later(homeless, until_s)
            return
        self._replicas.quarantine.step_out(homeless)
        self.abort(homeless.ticket.request.request_id)
        self._give(homeless.ticket.progress.failure(OutputError(code=error.code, message=error.message)))

    def _retry_now(self, homeless: _Homeless) -> ServingError | None:
        """Send what waits for a replica; return why it cannot be, None where nothing waits any longer."""
        ticket = homeless.ticket
        if self._tickets.get(ticket.request.request_id) is not ticket:
            self._replicas.quarantine.pass_on()
            return None
        try:
            self._send_homeless(homeless)
        except ServingError as error:
            return error
        return None

    def _give(self, output: EngineOutput) -> None:
        self._pending.add(output)
        self._arrived.set()

    def _end_leg(self, ticket: _Ticket, leg: _Leg) -> None:
        del ticket.legs[leg.request.request_id]
        self._replicas.end(leg.placement)
        if leg.is_suspect:
            self._replicas.quarantine.leave(leg.link)

    def _stop(self, ticket: _Ticket) -> None:
        """Abort all that a request still has anywhere."""
        for leg in list(ticket.legs.values()):
            leg.link.abort(leg.request.request_id)
            self._end_leg(ticket, leg)
