"""What one call has on engines: all outputs in one slot, everything aborted at the end, one second chance."""

import time

import pytest

from attendant_engine.types import EngineOutput, GenerationRequest, OutputError, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.in_flight import Affinity, InFlight, RequestIds
from attendant_server.gateway.replicas import ReplicaSet
from tests.server.fakes import FakeLink

LOST = OutputError(code="not_ready", message="lost")


def _request(request_id: str, n: int = 1) -> GenerationRequest:
    return GenerationRequest(request_id=request_id, prompt_token_ids=(1,), n=n)


def _deadline() -> Deadline:
    return Deadline(callers_s=None, request_timeout_s=10.0)


def _token(request_id: str, token_id: int, index: int = 0) -> SequenceOutput:
    return SequenceOutput(request_id=request_id, index=index, token_ids=(token_id,))


def _tokens(outputs: list[EngineOutput]) -> list[tuple[str, tuple[int, ...]]]:
    return [(output.request_id, output.token_ids) for output in outputs if isinstance(output, SequenceOutput)]


async def test_a_slow_reader_finds_one_merged_output_a_sequence() -> None:
    link = FakeLink()
    flight = InFlight(ReplicaSet("tiny", [link]))
    flight.submit(_request("a"))
    flight.submit(_request("b"))
    for token_id in range(1000):
        link.emit(_token("a", token_id))
    link.emit(_token("b", 1))
    assert _tokens(await flight.take(_deadline())) == [("a", tuple(range(1000))), ("b", (1,))]
    flight.close()


async def test_closing_aborts_what_runs_and_leaves_nothing_counted() -> None:
    link = FakeLink()
    replicas = ReplicaSet("tiny", [link])
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    flight.submit(_request("b", n=2))
    for index in range(2):
        link.emit(SequenceOutput(request_id="b", index=index, finish_reason="length"))
    assert flight.num_open == 1
    flight.close()
    flight.close()
    assert link.aborted == ["a"]
    assert replicas.num_in_flight(link) == 0


async def test_an_aborted_requests_outputs_are_forgotten() -> None:
    link = FakeLink()
    flight = InFlight(ReplicaSet("tiny", [link]))
    flight.submit(_request("a"))
    flight.submit(_request("b"))
    sink = link.sinks["a"]
    link.emit(_token("a", 1))
    flight.abort("a")
    sink(_token("a", 2))
    link.emit(_token("b", 3))
    assert _tokens(await flight.take(_deadline())) == [("b", (3,))]
    flight.close()


async def test_a_request_lost_before_it_gave_anything_goes_to_another_replica_unseen() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    replicas = ReplicaSet("tiny", [first])
    moved: list[int] = []
    flight = InFlight(replicas, on_failover=lambda: moved.append(1))
    flight.submit(_request("a"))
    replicas.update([first, second])
    first.is_up = False
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    assert second.submitted == [_request("a")]
    second.emit(SequenceOutput(request_id="a", token_ids=(9,), finish_reason="length"))
    assert _tokens(await flight.take(_deadline())) == [("a", (9,))]
    assert moved == [1]
    assert (replicas.num_in_flight(first), replicas.num_in_flight(second)) == (0, 0)


async def test_a_request_that_has_given_something_or_was_lost_twice_ends_with_not_ready() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    replicas = ReplicaSet("tiny", [first])
    flight = InFlight(replicas)
    flight.submit(_request("told"))
    flight.submit(_request("twice"))
    first.emit(_token("told", 1))
    replicas.update([first, second])
    first.is_up = False
    for request_id in ("told", "twice"):
        first.emit(SequenceOutput(request_id=request_id, finish_reason="error", error=LOST))
    second.emit(SequenceOutput(request_id="twice", finish_reason="error", error=LOST))
    outputs = {output.request_id: output for output in await flight.take(_deadline())}
    assert outputs["told"].error == outputs["twice"].error == LOST
    assert flight.num_open == 0


async def test_without_another_replica_the_loss_is_reported() -> None:
    link = FakeLink()
    replicas = ReplicaSet("tiny", [link])
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    link.is_up = False
    link.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    (output,) = await flight.take(_deadline())
    assert output.error == LOST
    assert replicas.num_in_flight(link) == 0


async def test_an_affinity_keeps_requests_on_one_replica_while_that_is_ready() -> None:
    links = [FakeLink(replica_id=f"r{idx}") for idx in range(3)]
    replicas, affinity = ReplicaSet("tiny", links), Affinity()
    for number in range(6):
        InFlight(replicas, affinity=affinity).submit(_request(str(number)))
    home = affinity.home
    assert [len(link.submitted) for link in links if link is home] == [6]
    assert isinstance(home, FakeLink)
    home.is_up = False
    InFlight(replicas, affinity=affinity).submit(_request("late"))
    assert affinity.home is not home


async def test_a_refused_submission_leaves_nothing_behind() -> None:
    link = FakeLink()
    replicas = ReplicaSet("tiny", [link])
    flight = InFlight(replicas)
    link.is_up = False
    with pytest.raises(ServingError):
        flight.submit(_request("a"))
    assert (flight.num_open, replicas.num_in_flight(link)) == (0, 0)


async def test_waiting_ends_at_the_deadline() -> None:
    flight = InFlight(ReplicaSet("tiny", [FakeLink()]))
    flight.submit(_request("a"))
    with pytest.raises(ServingError) as caught:
        await flight.take(Deadline(callers_s=time.monotonic() + 0.01, request_timeout_s=10.0))
    assert caught.value.code == "deadline_exceeded"


def test_request_ids_are_unique_across_gateways() -> None:
    one, two = RequestIds(), RequestIds()
    assert len({ids.make() for ids in (one, two) for _ in range(100)}) == 200
