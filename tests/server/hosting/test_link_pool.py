import asyncio
from pathlib import Path

import pytest

from attendant_engine.types import GenerationRequest
from attendant_server.gateway.served_model import ServedModel
from attendant_server.hosting.link_pool import LinkPool
from tests.server.fakes import FakeLink, write_tokenizer

REQUEST = GenerationRequest(request_id="a", prompt_token_ids=(1,))


class _Made(FakeLink):
    """A link that remembers its address and when it was closed."""

    def __init__(self, replica_id: str, address: str) -> None:
        super().__init__(replica_id=replica_id)
        self.address = address
        self.is_closed = asyncio.Event()

    async def close(self) -> None:
        await super().close()
        self.is_closed.set()


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel.load("tiny", write_tokenizer(tmp_path))


@pytest.fixture
def made() -> list[_Made]:
    return []


@pytest.fixture
def pool(model: ServedModel, made: list[_Made]) -> LinkPool:
    def make(replica_id: str, address: str) -> _Made:
        made.append(_Made(replica_id, address))
        return made[-1]

    return LinkPool({"engine-tiny": model}, make)


async def test_every_named_replica_gets_one_link_however_often_it_is_named(pool: LinkPool, model: ServedModel, made: list[_Made]) -> None:
    pool.update("engine-tiny", {"r1": "h:1"})
    pool.update("engine-tiny", {"r1": "h:1", "r2": "h:2"})
    pool.update("engine-tiny", {"r1": "h:1", "r2": "h:2"})
    assert [(link.replica_id, link.address) for link in made] == [("r1", "h:1"), ("r2", "h:2")]
    assert model.replicas.links == tuple(made)


async def test_a_replica_named_no_more_gets_no_new_requests_and_keeps_its_link_until_the_old_ones_end(
    pool: LinkPool, model: ServedModel, made: list[_Made]
) -> None:
    pool.update("engine-tiny", {"r1": "h:1", "r2": "h:2"})
    leaving, staying = made
    placement = model.replicas.pick(REQUEST, avoid=staying)
    model.replicas.begin(placement)
    pool.update("engine-tiny", {"r2": "h:2"})
    assert model.replicas.links == (staying,)
    await asyncio.sleep(0)
    assert not leaving.is_closed.is_set()
    model.replicas.end(placement)
    await asyncio.wait_for(leaving.is_closed.wait(), 5)
    assert not staying.is_closed.is_set()


async def test_deployments_of_others_are_none_of_its_business(pool: LinkPool, made: list[_Made]) -> None:
    pool.update("somebody-else", {"r1": "h:1"})
    assert made == []


async def test_closing_closes_every_link_the_retiring_ones_too(pool: LinkPool, model: ServedModel, made: list[_Made]) -> None:
    pool.update("engine-tiny", {"r1": "h:1", "r2": "h:2"})
    model.replicas.begin(model.replicas.pick(REQUEST, avoid=made[1]))
    pool.update("engine-tiny", {"r2": "h:2"})
    await asyncio.sleep(0)
    await pool.close()
    assert all(link.is_closed.is_set() for link in made)


async def test_a_deployment_that_is_added_gets_links_and_one_that_is_removed_loses_them(
    pool: LinkPool, model: ServedModel, made: list[_Made]
) -> None:
    other = ServedModel("other", tokenizer=model.tokenizer)
    pool.update("engine-tiny", {"r1": "h:1"})
    pool.add("engine-other", other)
    pool.update("engine-other", {"r2": "h:2"})
    assert other.replicas.links == (made[1],)
    await pool.remove("engine-other")
    pool.update("engine-other", {"r3": "h:3"})
    assert len(made) == 2
    assert other.replicas.num_ready == 0
    assert made[1].is_closed.is_set() and not made[0].is_closed.is_set()
