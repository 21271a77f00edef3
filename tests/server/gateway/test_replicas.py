"""Requests go where there is least to do, and only to who is ready."""

from functools import partial

import pytest

from attendant_engine.types import AdapterInfo, GenerationRequest, PoolingRequest
from attendant_server.errors import ServingError
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.link.base import ReplicaLoad
from tests.server.fakes import FakeLink, model_info

REQUEST = GenerationRequest(request_id="a", prompt_token_ids=(1,))


def _links(count: int) -> list[FakeLink]:
    return [FakeLink(replica_id=f"r{idx}") for idx in range(count)]


def test_many_requests_at_once_are_spread_evenly() -> None:
    links = _links(3)
    replicas = ReplicaSet("tiny", links)
    for _ in range(30):
        replicas.begin(replicas.pick(REQUEST))
    assert [replicas.num_in_flight(link) for link in links] == [10, 10, 10]


def test_a_replica_that_other_gateways_keep_busy_gets_less() -> None:
    busy, idle = _links(2)
    busy.load_now = ReplicaLoad(num_running=5, num_waiting=5)
    replicas = ReplicaSet("tiny", [busy, idle])
    for _ in range(10):
        replicas.begin(replicas.pick(REQUEST))
    assert replicas.num_in_flight(idle) == 10


def test_equals_take_turns() -> None:
    links = _links(2)
    replicas = ReplicaSet("tiny", links)
    assert {replicas.pick(REQUEST).link.replica_id for _ in range(2)} == {"r0", "r1"}


def test_only_the_ready_are_picked_and_the_avoided_only_for_want_of_others() -> None:
    down, up = _links(2)
    down.is_up = False
    replicas = ReplicaSet("tiny", [down, up])
    assert replicas.pick(REQUEST).link is up
    assert replicas.pick(REQUEST, avoid=up).link is up
    assert (replicas.num_ready, replicas.status) == (1, "ready")


def test_a_request_for_an_adapter_goes_where_that_is_loaded_if_it_is_anywhere() -> None:
    adapter = AdapterInfo(name="polite", tasks=("embedding",), digest="d", rank=4, num_parameters=8)
    without, having = FakeLink(replica_id="r0"), FakeLink(model_info(adapters=(adapter,)), replica_id="r1")
    replicas = ReplicaSet("tiny", [without, having])
    request = PoolingRequest(request_id="a", prompt_token_ids=(1,), task="embedding", adapter="polite")
    for _ in range(5):
        placement = replicas.pick(request)
        replicas.begin(placement)
        assert placement.link is having
    having.is_up = False
    assert replicas.pick(request).link is without


def test_a_replaced_link_is_counted_until_its_last_request_ends_and_then_forgotten() -> None:
    link = FakeLink()
    replicas = ReplicaSet("tiny", [link])
    placement = replicas.pick(REQUEST)
    replicas.begin(placement)
    replicas.update([])
    assert replicas.num_in_flight(link) == 1
    replicas.end(placement)
    assert replicas.num_in_flight(link) == 0
    replicas.update([link])
    assert replicas.pick(REQUEST).link is link


def test_without_a_ready_replica_the_error_says_why_and_when_to_come_back() -> None:
    link = FakeLink()
    link.info = None
    replicas = ReplicaSet("tiny", [link])
    for refused in (partial(replicas.pick, REQUEST), replicas.require_info):
        with pytest.raises(ServingError, match="'tiny' has no replica ready: the model is still loading") as caught:
            refused()
        assert (caught.value.code, caught.value.retry_after_s) == ("not_ready", 1.0)
    assert ReplicaSet("tiny").status == "no replica has started yet"


def test_what_the_model_is_stays_known_while_replicas_are_replaced() -> None:
    link = FakeLink(model_info(max_model_len=99))
    replicas = ReplicaSet("tiny", [link])
    assert replicas.require_info().max_model_len == 99
    replicas.update([])
    assert replicas.require_info().max_model_len == 99


def test_a_model_that_sleeps_is_available_once_it_is_known_and_is_woken_by_who_wants_it() -> None:
    replicas, num_wanted = ReplicaSet("tiny"), 0

    def note() -> None:
        nonlocal num_wanted
        num_wanted += 1

    replicas.may_sleep, replicas.on_wanted = True, note
    available = [replicas.is_available]
    replicas.update([FakeLink()])
    assert replicas.require_info().name == "tiny"
    available.append(replicas.is_available)
    replicas.update([])
    available.append(replicas.is_available)
    assert (available, replicas.num_ready, num_wanted) == ([False, True, True], 0, 0)
    assert replicas.status.startswith("asleep")
    with pytest.raises(ServingError):
        replicas.pick(REQUEST)
    assert num_wanted == 1
