"""Requests go where there is least to do, and only to who is ready."""

import pytest

from attendant_server.errors import ServingError
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.link.base import ReplicaLoad
from tests.server.fakes import FakeLink, model_info


def _links(count: int) -> list[FakeLink]:
    return [FakeLink(replica_id=f"r{idx}") for idx in range(count)]


def test_many_requests_at_once_are_spread_evenly() -> None:
    links = _links(3)
    replicas = ReplicaSet("tiny", links)
    for _ in range(30):
        replicas.begin(replicas.pick())
    assert [replicas.num_in_flight(link) for link in links] == [10, 10, 10]


def test_a_replica_that_other_gateways_keep_busy_gets_less() -> None:
    busy, idle = _links(2)
    busy.load_now = ReplicaLoad(num_running=5, num_waiting=5)
    replicas = ReplicaSet("tiny", [busy, idle])
    for _ in range(10):
        replicas.begin(replicas.pick())
    assert replicas.num_in_flight(idle) == 10


def test_equals_take_turns() -> None:
    links = _links(2)
    replicas = ReplicaSet("tiny", links)
    assert {replicas.pick().replica_id for _ in range(2)} == {"r0", "r1"}


def test_only_the_ready_are_picked_and_the_avoided_only_for_want_of_others() -> None:
    down, up = _links(2)
    down.is_up = False
    replicas = ReplicaSet("tiny", [down, up])
    assert replicas.pick() is up
    assert replicas.pick(avoid=up) is up
    assert (replicas.num_ready, replicas.status) == (1, "ready")


def test_without_a_ready_replica_the_error_says_why_and_when_to_come_back() -> None:
    link = FakeLink()
    link.info = None
    replicas = ReplicaSet("tiny", [link])
    for refused in (replicas.pick, replicas.require_info):
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
