"""What one call has on engines: all outputs in one slot, everything aborted at the end, what was lost going on elsewhere."""

import time
from dataclasses import replace

import pytest

from attendant_engine.types import EngineOutput, GenerationRequest, OutputError, SamplingParams, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline, Terms
from attendant_server.gateway.in_flight import MAX_MOVES, InFlight, RequestIds
from attendant_server.gateway.replicas import ReplicaSet
from tests.server.fakes import FakeLink, model_info

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


async def test_engines_hear_until_when_and_for_whom_also_where_a_request_is_moved_to() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    replicas = ReplicaSet("tiny", [first])
    flight = InFlight(replicas, terms=Terms(deadline_s=123.5, tenant="acme", tenant_weight=2.0))
    flight.submit(_request("a"))
    replicas.update([second])
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    for link in (first, second):
        (request,) = link.generations
        assert (request.deadline_s, request.tenant, request.tenant_weight) == (123.5, "acme", 2.0)
    flight.close()


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
    (again,) = second.generations
    assert again == replace(_request("a"), request_id=again.request_id)
    second.emit(SequenceOutput(request_id=again.request_id, token_ids=(9,), finish_reason="length"))
    assert _tokens(await flight.take(_deadline())) == [("a", (9,))]
    assert moved == [1]
    assert (replicas.num_in_flight(first), replicas.num_in_flight(second)) == (0, 0)


async def test_what_has_begun_goes_on_behind_the_last_token_with_the_seed_that_was_drawn() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    replicas = ReplicaSet("tiny", [first])
    flight = InFlight(replicas)
    flight.submit(_request("a", n=3))
    for index in range(3):
        first.emit(SequenceOutput(request_id="a", index=index, token_ids=(10 + index,), seed=77))
    first.emit(SequenceOutput(request_id="a", index=1, token_ids=(21,), finish_reason="stop"))
    first.emit(_token("a", 32, index=2))
    assert len(await flight.take(_deadline())) == 3
    replicas.update([first, second])
    first.is_up = False
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    assert [(r.index, r.n, r.output_token_ids, r.params.seed) for r in second.generations] == [(0, 1, (10,), 77), (2, 1, (12, 32), 77)]
    assert len({r.request_id for r in second.generations}) == 2
    for request, token_id in zip(second.generations, (40, 42), strict=True):
        second.emit(
            SequenceOutput(
                request_id=request.request_id, index=request.index, token_ids=(token_id,), finish_reason="length", num_cached_tokens=16
            )
        )
    outputs = [output for output in await flight.take(_deadline()) if isinstance(output, SequenceOutput)]
    assert [(o.request_id, o.index, o.token_ids, o.num_cached_tokens) for o in outputs] == [("a", 0, (40,), 0), ("a", 2, (42,), 0)]
    assert flight.num_open == 0
    assert (replicas.num_in_flight(first), replicas.num_in_flight(second)) == (0, 0)


async def test_a_prompt_that_has_been_scored_is_not_scored_again() -> None:
    links = [FakeLink(replica_id=f"r{idx}") for idx in range(2)]
    flight = InFlight(ReplicaSet("tiny", links))
    request = replace(_request("a"), params=SamplingParams(prompt_logprobs=2, prompt_logprobs_start=1))
    flight.submit(request)
    first = next(link for link in links if link.submitted)
    first.emit(SequenceOutput(request_id="a", token_ids=(5,), seed=1, prompt_logprobs=()))
    first.is_up = False
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    (moved,) = next(link for link in links if link is not first).generations
    assert moved.params == SamplingParams(seed=1)
    flight.close()


async def test_what_is_lost_again_and_again_ends_with_not_ready() -> None:
    links = [FakeLink(replica_id=f"r{idx}") for idx in range(6)]
    replicas = ReplicaSet("tiny", links)
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    for _ in range(1 + MAX_MOVES):
        link = next(link for link in links if link.is_up and link.submitted)
        link.is_up = False
        link.emit(SequenceOutput(request_id=link.submitted[-1].request_id, finish_reason="error", error=LOST))
    assert sum(len(link.submitted) for link in links) == 1 + MAX_MOVES
    (output,) = await flight.take(_deadline())
    assert (output.request_id, output.error) == ("a", LOST)
    assert flight.num_open == 0
    assert not any(replicas.num_in_flight(link) for link in links)


async def test_a_replica_whose_answers_may_differ_is_no_place_to_go_on() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(model_info(kernels="avx2"), replica_id="r1")
    replicas = ReplicaSet("tiny", [first])
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    replicas.update([first, second])
    first.is_up = False
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    (output,) = await flight.take(_deadline())
    assert output.error == LOST and not second.submitted


async def test_where_replicas_are_replaced_what_was_lost_waits_for_the_next() -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    replicas = ReplicaSet("tiny", [first], replacement_s=10.0)
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    first.emit(SequenceOutput(request_id="a", token_ids=(7,), seed=3))
    await flight.take(_deadline())
    first.is_up = False
    first.emit(SequenceOutput(request_id="a", finish_reason="error", error=LOST))
    second.answer = lambda request: [SequenceOutput(request_id=request.request_id, token_ids=(8,), finish_reason="length")]
    replicas.update([second])
    assert _tokens(await flight.take(_deadline())) == [("a", (8,))]
    assert [request.output_token_ids for request in second.generations] == [(7,)]
    assert flight.num_open == 0


async def test_where_replicas_are_replaced_a_new_request_waits_too() -> None:
    gone, next_one = FakeLink(replica_id="r0"), FakeLink(replica_id="r1")
    gone.is_up = False
    replicas = ReplicaSet("tiny", [gone], replacement_s=10.0)
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    next_one.answer = lambda request: [SequenceOutput(request_id=request.request_id, token_ids=(8,), finish_reason="length")]
    replicas.update([next_one])
    assert _tokens(await flight.take(_deadline())) == [("a", (8,))]
    assert flight.num_open == 0


async def test_where_nobody_replaces_them_a_new_request_is_refused_at_once() -> None:
    gone = FakeLink()
    gone.is_up = False
    flight = InFlight(ReplicaSet("tiny", [gone]))
    with pytest.raises(ServingError, match="no replica ready"):
        flight.submit(_request("a"))
    assert flight.num_open == 0


async def test_a_replacement_that_does_not_come_in_time_is_not_waited_for() -> None:
    link = FakeLink()
    replicas = ReplicaSet("tiny", [link], replacement_s=0.1)
    flight = InFlight(replicas)
    flight.submit(_request("a"))
    flight.submit(_request("left"))
    link.is_up = False
    for request_id in ("a", "left"):
        link.emit(SequenceOutput(request_id=request_id, finish_reason="error", error=LOST))
    flight.abort("left")
    (output,) = await flight.take(_deadline())
    assert output.request_id == "a" and output.error is not None and output.error.code == "not_ready"
    assert (flight.num_open, replicas.num_in_flight(link)) == (0, 0)


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


async def test_a_prompt_counts_as_queueing_until_its_first_output() -> None:
    links = [FakeLink(replica_id="r0"), FakeLink(replica_id="r1")]
    replicas, picked = ReplicaSet("tiny", links), list[str]()
    flight = InFlight(replicas, on_pick=picked.append)
    flight.submit(GenerationRequest(request_id="long", prompt_token_ids=(1,) * 300))
    first = next(link for link in links if link.submitted)
    for number in range(4):
        flight.submit(_request(str(number)))
    assert [len(link.submitted) for link in links if link is first] == [1]
    first.emit(_token("long", 7))
    flight.submit(_request("late"))
    assert [len(link.submitted) for link in links if link is first] == [2]
    assert picked == ["load"] * 6
    flight.close()


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
