"""Many replicas in simulated time under the real router: requests arrive, queue, are computed and end; heartbeats come late.

A replica computes prompts one after another, and decodes all that it runs at the measured step time of its full load. Its
cache is exact and endless, and each gateway knows of it what heartbeats told. Only what the router does takes real time.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from attendant_engine.prefix_names import prefix_keys
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.gateway.routing import Placement
from attendant_server.link.base import OutputSink, ReplicaLoad
from attendant_server.link.prefix_digest import DigestFeed, PrefixDigest
from attendant_server.link.server import HEARTBEAT_S, MAX_KEYS_PER_HEARTBEAT
from benchmarks.routing_workload import BLOCK_SIZE, FewShotSets


@dataclass(slots=True, eq=False)
class _Replica:
    """One engine."""

    digest: PrefixDigest = field(default_factory=lambda: PrefixDigest(BLOCK_SIZE))
    num_running: int = 0
    most_running: int = 0
    num_queued_tokens: int = 0
    free_at_s: float = 0.0


class _Link:
    """A gateway's view of one replica, as old as the last heartbeat."""

    is_ready = True
    status = "ready"
    metrics_text = b""
    info: ModelInfo | None = None

    def __init__(self, replica: _Replica, name: str) -> None:
        self.replica_id = name
        self.replica = replica
        self.load = ReplicaLoad()
        self.prefixes = PrefixDigest(BLOCK_SIZE)
        self._feed = DigestFeed(replica.digest)

    def beat(self) -> int:
        """Take in a heartbeat; return how many keys it brought."""
        replica = self.replica
        self.load = ReplicaLoad(num_running=replica.num_running, num_queued_tokens=replica.num_queued_tokens)
        cached, dropped = self._feed.take(MAX_KEYS_PER_HEARTBEAT)
        self.prefixes.update({**dict.fromkeys(cached, True), **dict.fromkeys(dropped, False)})
        return len(cached) + len(dropped)

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Nothing is sent: the simulation computes."""

    def abort(self, request_id: str) -> None:
        """Nothing is sent."""

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """What came of it. ``pick_s`` is the router's median real time a request; times to first token are simulated seconds."""

    num_cached_tokens: int
    first_token_s: tuple[float, ...]
    pick_s: float
    most_running: int
    mean_most_running: float
    keys_per_heartbeat: float
    most_streams: int


class Simulation:
    """``num_gateways`` gateways and ``num_replicas`` replicas."""

    def __init__(self, *, num_replicas: int, num_gateways: int, prefill_token_s: float, step_s: float, max_tokens: int) -> None:
        self._prefill_token_s = prefill_token_s
        self._step_s = step_s
        self._max_tokens = max_tokens
        self._replicas = [_Replica() for _ in range(num_replicas)]
        self._links = [[_Link(replica, f"r{idx}") for idx, replica in enumerate(self._replicas)] for _ in range(num_gateways)]
        self._gateways = [ReplicaSet("model", links) for links in self._links]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self._num_streams = self._most_streams = self._num_cached_tokens = self._num_keys = self._num_beats = 0
        self._first_token_s: list[float] = []
        self._pick_s: list[float] = []
        self._num_left = 0

    def run(self, sets: FewShotSets, *, num_requests: int, requests_per_s: float) -> SimulationResult:
        """Let requests arrive at random at a steady rate, and return when all have ended."""
        draws = random.Random(0)
        self._num_left = num_requests

        def arrive(number: int) -> None:
            if number < num_requests:
                self._at(self._now_s + draws.expovariate(requests_per_s), lambda: arrive(number + 1))
                self._arrive(GenerationRequest(request_id="q", prompt_token_ids=sets.draw()), draws.choice(self._gateways))

        self._at(0.0, lambda: arrive(0))
        self._at(0.0, self._beat)
        while self._num_left:
            self._now_s, _, event = heapq.heappop(self._events)
            event()
        most = [replica.most_running for replica in self._replicas]
        return SimulationResult(
            num_cached_tokens=self._num_cached_tokens,
            first_token_s=tuple(self._first_token_s),
            pick_s=median(self._pick_s),
            most_running=max(most),
            mean_most_running=sum(most) / len(most),
            keys_per_heartbeat=self._num_keys / max(1, self._num_beats),
            most_streams=self._most_streams,
        )

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), event))

    def _beat(self) -> None:
        for link in itertools.chain.from_iterable(self._links):
            self._num_keys += link.beat()
            self._num_beats += 1
        self._at(self._now_s + HEARTBEAT_S, self._beat)

    def _arrive(self, request: GenerationRequest, gateway: ReplicaSet) -> None:
        started_s = time.perf_counter()
        placement = gateway.pick(request)
        gateway.begin(placement)
        self._pick_s.append(time.perf_counter() - started_s)
        link = placement.link
        assert isinstance(link, _Link)
        replica, now_s = link.replica, self._now_s
        num_cached = replica.digest.num_cached_tokens("", request.prompt_token_ids)
        num_uncached = len(request.prompt_token_ids) - num_cached
        self._num_cached_tokens += num_cached
        # A prompt of what is being computed already waits for it, as the scheduler has it.
        replica.digest.update(dict.fromkeys(prefix_keys("", request.prompt_token_ids, BLOCK_SIZE), True))
        replica.num_queued_tokens += num_uncached
        replica.num_running += 1
        replica.most_running = max(replica.most_running, replica.num_running)
        self._num_streams += 1
        self._most_streams = max(self._most_streams, self._num_streams)
        replica.free_at_s = max(now_s, replica.free_at_s) + num_uncached * self._prefill_token_s
        first_s = replica.free_at_s + self._step_s
        self._first_token_s.append(first_s - now_s)
        self._at(first_s, lambda: self._begin_decode(gateway, placement, replica, num_uncached))

    def _begin_decode(self, gateway: ReplicaSet, placement: Placement, replica: _Replica, num_uncached: int) -> None:
        replica.num_queued_tokens -= num_uncached
        gateway.has_output(placement)
        ends_s = self._now_s + self._max_tokens * self._step_s
        self._at(ends_s, lambda: self._end(gateway, placement, replica))

    def _end(self, gateway: ReplicaSet, placement: Placement, replica: _Replica) -> None:
        gateway.end(placement)
        replica.num_running -= 1
        self._num_streams -= 1
        self._num_left -= 1
