"""A request that ends its replicas is found after the second, and its neighbours lose nothing by it."""

import asyncio
import itertools

import pytest

from attendant_engine.types import EngineOutput, EngineRequest, OutputError, SequenceOutput
from attendant_engine.types import GenerationRequest as Request
from attendant_server.gateway import in_flight
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.in_flight import InFlight
from attendant_server.gateway.quarantine import Quarantine
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.link.base import NOT_READY_TEXTS
from tests.server.fakes import FakeLink

LOST = OutputError(code="not_ready", message="lost")
POISON = 255


class Replicas:
    """Replicas that are replaced when they die, as one does that is sent ``POISON``. Without ``answers`` they keep all waiting."""

    def __init__(self, num_replicas: int) -> None:
        self._numbers = itertools.count()
        self.answers = False
        self.num_deaths = 0
        self.most_unanswered = 0
        self.set = ReplicaSet("tiny", replacement_s=10.0)
        self.set.update([self._new() for _ in range(num_replicas)])

    @property
    def links(self) -> list[FakeLink]:
        return [link for link in self.set.links if isinstance(link, FakeLink)]

    def kill(self, link: FakeLink) -> None:
        """What a gateway sees of a death: an error for everything that was there, and another replica."""
        link.is_up = False
        self.num_deaths += 1
        self.set.update([*(other for other in self.links if other is not link), self._new()])
        for request_id in list(link.sinks):
            link.emit(SequenceOutput(request_id=request_id, finish_reason="error", error=LOST))

    def _new(self) -> FakeLink:
        link = FakeLink(replica_id=f"r{next(self._numbers)}")
        link.answer = lambda request: self._answer(link, request)
        return link

    def _answer(self, link: FakeLink, request: EngineRequest) -> list[EngineOutput]:
        if self.answers:
            self.most_unanswered = max(self.most_unanswered, self.set.num_in_flight(link))
        if POISON in request.prompt_token_ids:
            asyncio.get_running_loop().call_soon(self.kill, link)
        elif self.answers:
            return [SequenceOutput(request_id=request.request_id, token_ids=(7,), finish_reason="length")]
        return []


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "SETTLE_S", 0.02)


def _start(replicas: Replicas, request_id: str, token_id: int = 1) -> InFlight:
    flight = InFlight(replicas.set)
    flight.submit(Request(request_id=request_id, prompt_token_ids=(token_id,)))
    return flight


async def _last(flight: InFlight) -> SequenceOutput:
    while True:
        for output in await flight.take(Deadline(callers_s=None, request_timeout_s=10.0)):
            assert isinstance(output, SequenceOutput)
            if output.finish_reason is not None:
                return output


async def test_a_poisoned_request_ends_two_replicas_and_no_neighbour() -> None:
    replicas = Replicas(1)
    good = [_start(replicas, f"good{number}") for number in range(5)]
    poisoned = _start(replicas, "bad", POISON)
    good += [_start(replicas, f"good{number}") for number in range(5, 9)]
    replicas.answers = True
    outputs = await asyncio.gather(*map(_last, good))
    assert [output.token_ids for output in outputs] == [(7,)] * 9
    guilty = await _last(poisoned)
    assert guilty.error is not None and guilty.error.code == "server_error" and "given up" in guilty.error.message
    assert (replicas.num_deaths, replicas.most_unanswered) == (2, 1)
    assert not any(replicas.set.num_in_flight(link) for link in replicas.links)


async def test_several_poisoned_requests_end_one_replica_more_each() -> None:
    replicas = Replicas(2)
    poisoned = [_start(replicas, f"bad{number}", POISON) for number in range(2)]
    replicas.answers = True
    for output in await asyncio.gather(*map(_last, poisoned)):
        assert output.error is not None and output.error.code == "server_error"
    assert replicas.num_deaths == 4


async def test_who_had_an_answer_goes_on_at_once() -> None:
    replicas = Replicas(2)
    flight = _start(replicas, "a")
    (link,) = (link for link in replicas.links if link.submitted)
    link.emit(SequenceOutput(request_id="a", token_ids=(5,), seed=1))
    replicas.kill(link)
    assert sum(len(other.submitted) for other in replicas.links) == 1
    flight.close()


async def test_replicas_that_die_together_accuse_nobody() -> None:
    replicas = Replicas(2)
    flight = _start(replicas, "a")
    for link in replicas.links:
        replicas.kill(link)
    replicas.answers = True
    assert (await _last(flight)).token_ids == (7,)
    assert replicas.num_deaths == 2


async def test_a_replica_that_drains_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Replicas(2)
    flight = _start(replicas, "a")
    (link,) = (link for link in replicas.links if link.submitted)
    monkeypatch.setattr(FakeLink, "status", NOT_READY_TEXTS["draining"])
    replicas.kill(link)
    assert sum(len(other.submitted) for other in replicas.links) == 1
    flight.close()


async def test_a_suspect_who_leaves_gives_his_turn_away() -> None:
    replicas = Replicas(1)
    flights = [_start(replicas, str(number)) for number in range(3)]
    replicas.kill(replicas.links[0])
    (link,) = replicas.links
    while not link.submitted:
        await asyncio.sleep(0)
    first = next(flight for flight in flights if flight.num_open and link.submitted[0].request_id.startswith(_name(flight)))
    replicas.answers = True
    first.close()
    for flight in flights:
        if flight is not first:
            assert (await _last(flight)).token_ids == (7,)


def _name(flight: InFlight) -> str:
    return next(iter(flight._tickets))


async def test_the_line_is_served_in_its_order() -> None:
    quarantine, link, order = Quarantine(), FakeLink(), list[str]()
    assert quarantine.enter(link)
    assert not quarantine.enter(link)
    for key in ("a", "b", "c"):
        quarantine.stand_in_line(key, lambda key=key: order.append(key))  # type: ignore[misc]
    quarantine.stand_in_line("a", lambda: order.append("again"))
    quarantine.step_out("b")
    for _ in range(3):
        quarantine.leave(link)
        assert quarantine.enter(link)
    await asyncio.sleep(0)
    assert order == ["a", "c"]
