"""Prompts go where their beginning is cached, unless too much waits there."""

from collections import Counter

from attendant_engine.prefix_names import prefix_keys
from attendant_engine.types import GenerationRequest, PoolingRequest
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.gateway.routing import MAX_COMPARED, SEQUENCE_TOKENS
from attendant_server.link.base import ReplicaLoad
from attendant_server.link.prefix_digest import PrefixDigest
from tests.server.fakes import FakeLink

BLOCK_SIZE = 16


def _links(count: int) -> list[FakeLink]:
    links = [FakeLink(replica_id=f"r{idx}") for idx in range(count)]
    for link in links:
        link.digest = PrefixDigest(BLOCK_SIZE)
    return links


def _request(num_tokens: int, *, start: int = 0, salt: str = "", request_id: str = "a") -> GenerationRequest:
    return GenerationRequest(request_id=request_id, prompt_token_ids=tuple(range(start, start + num_tokens)), cache_salt=salt)


def _caches(link: FakeLink, request: GenerationRequest) -> None:
    link.digest.update(dict.fromkeys(prefix_keys(request.cache_salt, request.prompt_token_ids, BLOCK_SIZE), True))


def test_a_prompt_goes_where_most_of_it_is_cached() -> None:
    links = _links(8)
    _caches(links[3], _request(600))
    _caches(links[5], _request(1200))
    replicas = ReplicaSet("tiny", links)
    placement = replicas.pick(_request(2000))
    assert (placement.link, placement.reason) == (links[5], "prefix")
    assert placement.num_queued_tokens == 2000 - 1200 // BLOCK_SIZE * BLOCK_SIZE + BLOCK_SIZE  # the last block of 1,200 ended its prompt
    assert replicas.pick(_request(2000, start=1)).reason == "load"


def test_another_tenants_prompt_is_another_prompt() -> None:
    links = _links(2)
    _caches(links[0], _request(640, salt="theirs"))
    replicas = ReplicaSet("tiny", links)
    assert replicas.pick(_request(640, salt="ours")).reason == "load"
    assert replicas.pick(_request(640, salt="theirs")).link is links[0]


def test_a_burst_of_one_prefix_keeps_together_before_any_digest_knows_it() -> None:
    links = _links(4)
    replicas = ReplicaSet("tiny", links)
    homes = Counter[str]()
    for number in range(8):
        prompt = (*range(1000), *range(5000 + 40 * number, 5040 + 40 * number))
        placement = replicas.pick(GenerationRequest(request_id=str(number), prompt_token_ids=prompt))
        replicas.begin(placement)
        homes[placement.link.replica_id] += 1
        if number == 0:
            # While the first is computed, joining it costs as much as computing it elsewhere.
            replicas.has_output(placement)
    assert list(homes.values()) == [8]


def test_a_replica_with_much_to_do_loses_to_an_idle_one() -> None:
    links = _links(2)
    hot, idle = links
    _caches(hot, _request(640))
    replicas = ReplicaSet("tiny", links)
    hot.load_now = ReplicaLoad(num_queued_tokens=600)
    assert replicas.pick(_request(660)).link is hot
    hot.load_now = ReplicaLoad(num_queued_tokens=700)
    placement = replicas.pick(_request(660))
    assert (placement.link, placement.reason) == (idle, "spill")
    hot.load_now = ReplicaLoad(num_running=640 // SEQUENCE_TOKENS + 1)
    assert replicas.pick(_request(660)).link is idle


def test_a_hot_prefix_is_shared_out_instead_of_burying_its_replica() -> None:
    links = _links(4)
    _caches(links[0], _request(320))
    replicas = ReplicaSet("tiny", links)
    for number in range(80):
        replicas.begin(replicas.pick(_request(336, request_id=str(number))))
    in_flight = [replicas.num_in_flight(link) for link in links]
    assert sum(in_flight) == 80
    assert max(in_flight) - min(in_flight) <= 320 // SEQUENCE_TOKENS + 1


def test_what_was_sent_since_a_heartbeat_is_added_to_what_that_said() -> None:
    links = _links(2)
    links[0].load_now = ReplicaLoad(num_queued_tokens=100)
    links[1].load_now = ReplicaLoad(num_queued_tokens=150)
    replicas = ReplicaSet("tiny", links)
    for number, expected in enumerate([0, 1, 0, 1]):
        placement = replicas.pick(PoolingRequest(request_id=str(number), prompt_token_ids=(1,) * 100, task="embedding"))
        replicas.begin(placement)
        assert placement.link is links[expected]


def test_among_many_replicas_a_prefix_is_found_and_load_still_spreads() -> None:
    links = _links(10 * MAX_COMPARED)
    _caches(links[77], _request(640))
    replicas = ReplicaSet("tiny", links)
    assert replicas.pick(_request(660)).link is links[77]
    for number in range(4 * len(links)):
        replicas.begin(replicas.pick(_request(8, request_id=str(number))))
    assert max(replicas.num_in_flight(link) for link in links) <= 6
    for link in links[1:]:
        link.is_up = False
    assert replicas.pick(_request(660)).link is links[0]


def test_a_replica_that_went_is_not_routed_to_for_what_it_had() -> None:
    links = _links(2)
    _caches(links[0], _request(640))
    replicas = ReplicaSet("tiny", links)
    replicas.update(links[1:])
    assert replicas.pick(_request(660)).reason == "load"
