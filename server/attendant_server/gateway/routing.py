"""Which replica a request goes to: the one where it is expected to cost least, in tokens to be computed.

The cost at a replica is what of the prompt is not cached there, plus what queues there already, plus a fixed number of tokens
for each sequence it has: so a prompt goes where its beginning is, and elsewhere when too much waits there. Among many
replicas those with a part of the prompt and a few others are compared, which spreads nearly as well as comparing all
(Mitzenmacher 2001, "The power of two choices"). Knows no text.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from attendant_engine.prefix_names import prefix_keys
from attendant_engine.types import EngineRequest, GenerationRequest
from attendant_server.gateway.prefix_index import PrefixIndex
from attendant_server.link.base import ReplicaLink, ReplicaLoad

SEQUENCE_TOKENS = 32
"""What a sequence at a replica counts as, in prompt tokens: about as many tokens are still to come, each a row of a step."""

MAX_COMPARED = 16
"""Replicas whose costs are compared; half of these for having a part of the prompt, the rest drawn at random."""

PickReason = Literal["prefix", "spill", "load"]
"""Why a replica was picked: it has a part of the prompt; it has none but those that have are too busy; nobody has any."""


@dataclass(slots=True, eq=False)
class RoutedReplica:
    """A link, and what this gateway has on it. ``bit`` is the router's, 0 for a link that takes nothing new."""

    link: ReplicaLink
    bit: int = 0
    num_in_flight: int = 0
    num_queued_tokens: int = 0
    _load: ReplicaLoad | None = None
    _in_flight_then: int = 0
    _queued_then: int = 0

    def cost_tokens(self) -> int:
        """Return what it has to do, in tokens.

        Its own figures cover other gateways but are a heartbeat old; ours are of this moment. What we have sent since its
        figures came is added to them.
        """
        load = self.link.load
        if load is not self._load:
            self._load, self._in_flight_then, self._queued_then = load, self.num_in_flight, self.num_queued_tokens
        num_sequences = load.num_running + load.num_waiting + self.num_in_flight - self._in_flight_then
        num_queued = load.num_queued_tokens + self.num_queued_tokens - self._queued_then
        return max(self.num_queued_tokens, num_queued) + SEQUENCE_TOKENS * max(self.num_in_flight, num_sequences)


@dataclass(slots=True, eq=False, kw_only=True)
class Placement:
    """A request's place: ``num_queued_tokens`` of it are expected to be computed there, and count until it has output.

    ``keys`` are of the blocks that are not cached there yet, and will be.
    """

    replica: RoutedReplica
    reason: PickReason = "load"
    num_queued_tokens: int = 0
    keys: Sequence[int] = ()

    @property
    def link(self) -> ReplicaLink:
        """Where it goes."""
        return self.replica.link


class Router:
    """Picks among replicas, and counts what was sent where."""

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._by_bit: dict[int, RoutedReplica] = {}
        self._turn = 0
        self._random = random.Random()

    def join(self, replica: RoutedReplica) -> None:
        """Consider a replica from now on."""
        replica.bit = self._index.join(replica.link.prefixes)
        self._by_bit[replica.bit] = replica

    def leave(self, replica: RoutedReplica) -> None:
        """Forget what a replica has cached; what runs there is still counted."""
        self._index.leave(replica.bit)
        del self._by_bit[replica.bit]
        replica.bit = 0

    def pick(self, request: EngineRequest, fits: Callable[[RoutedReplica], bool]) -> Placement | None:
        """Return where ``request`` is expected to cost least among the replicas that fit; None where none does."""
        replicas = list(self._by_bit.values())
        block_size = next((size for replica in replicas if (size := replica.link.prefixes.block_size)), 0)
        keys: Sequence[int] = ()
        if len(replicas) > 1 and block_size and isinstance(request, GenerationRequest):
            keys = prefix_keys(request.cache_salt, request.prompt_token_ids, block_size)
        matches = self._index.match(keys, -1)
        num_tokens = len(request.prompt_token_ids)
        best: tuple[int, int, RoutedReplica] | None = None  # cost, blocks cached, who
        has_cached = False
        for replica in self._compared(replicas, matches, fits):
            num_cached = next((num_blocks for bits, num_blocks in matches if bits & replica.bit), 0)
            has_cached = has_cached or num_cached > 0
            cost = num_tokens - num_cached * block_size + replica.cost_tokens()
            if best is None or cost < best[0]:
                best = (cost, num_cached, replica)
        if best is None:
            return None
        _, num_cached, replica = best
        reason: PickReason = "prefix" if num_cached else "spill" if has_cached else "load"
        return Placement(replica=replica, reason=reason, num_queued_tokens=num_tokens - num_cached * block_size, keys=keys[num_cached:])

    def begin(self, placement: Placement) -> None:
        """Count a request at its place."""
        replica = placement.replica
        replica.num_in_flight += 1
        replica.num_queued_tokens += placement.num_queued_tokens
        if replica.bit:
            self._index.sent(placement.keys, replica.bit)

    def has_output(self, placement: Placement) -> None:
        """Count a request, which has had output, as queueing no more."""
        placement.replica.num_queued_tokens -= placement.num_queued_tokens
        placement.num_queued_tokens = 0

    def end(self, placement: Placement) -> None:
        """Count a request as over."""
        replica = placement.replica
        assert replica.num_in_flight > 0, "more requests ended at a replica than began"
        self.has_output(placement)
        replica.num_in_flight -= 1
        if replica.bit:
            self._index.ended(placement.keys, replica.bit)
        placement.keys = ()

    def _compared(
        self, replicas: list[RoutedReplica], matches: list[tuple[int, int]], fits: Callable[[RoutedReplica], bool]
    ) -> list[RoutedReplica]:
        """Return the fitting replicas whose costs are to be compared."""
        if len(replicas) > MAX_COMPARED:
            half = MAX_COMPARED // 2
            some = list(filter(fits, {*self._holders(matches, half), *self._random.sample(replicas, half)}))
            if some:
                return some
        # Equals take turns.
        self._turn = (self._turn + 1) % max(1, len(replicas))
        return list(filter(fits, replicas[self._turn :] + replicas[: self._turn]))

    def _holders(self, matches: list[tuple[int, int]], most: int) -> Iterator[RoutedReplica]:
        """Yield replicas that have a part of a prompt, those with the largest first."""
        for bits, _ in reversed(matches):
            while bits and most:
                bit = bits & -bits
                bits ^= bit
                most -= 1
                yield self._by_bit[bit]
