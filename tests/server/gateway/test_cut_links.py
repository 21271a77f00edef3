"""A request that breaks the link it comes by, over real sockets and engines: its neighbours go on, it is given up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.faults import parse_faults
from attendant_server.errors import ServingError
from attendant_server.gateway import in_flight
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import CompletionRequest
from attendant_server.gateway.served_model import ServedModel
from attendant_server.link.client import LinkClient
from attendant_server.link.faults import FaultyLink
from attendant_server.link.server import LinkServer
from attendant_server.metrics import ReplicaMetrics
from tests.server.fakes import call
from tests.server.link.replicas import TOKEN, until

MODEL = Path(__file__).resolve().parents[3] / "models" / "stories260k"
CUT = 5


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(in_flight, "SETTLE_S", 0.1)
    async with AsyncExitStack() as stack:
        links = []
        for name in ("r0", "r1"):
            load = partial(load_engine, MODEL, "stories", EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20))
            metrics = ReplicaMetrics(model="stories", replica=name)
            replica = FaultyLink(load, replica_id=name, metrics=metrics, faults=parse_faults(f"link:cut:{CUT}"))
            replica.start()
            stack.push_async_callback(replica.close)
            await replica.wait_loaded()
            server = LinkServer(replica, token=TOKEN)
            links.append(LinkClient(f"127.0.0.1:{await server.start('127.0.0.1')}", token=TOKEN, replica_id=name))
            stack.push_async_callback(server.stop)
            stack.push_async_callback(links[-1].close)
        await until(lambda: all(link.is_ready for link in links))
        model = ServedModel.load("stories", MODEL, links=links)
        model.replicas.replacement_s = 20.0
        gateway = Gateway({"stories": model})
        stack.callback(gateway.close)
        yield gateway


async def test_who_breaks_the_link_twice_is_given_up_and_the_others_end_as_in_peace(gateway: Gateway) -> None:
    def ask(prompt: list[int]) -> CompletionRequest:
        return CompletionRequest(model="stories", prompt=prompt, max_tokens=200, temperature=0.0, ignore_eos=True)

    quiet = await gateway.complete(ask([1]), call())
    others = [asyncio.ensure_future(gateway.complete(ask([1]), call())) for _ in range(6)]
    with pytest.raises(ServingError, match="given up"):
        await gateway.complete(ask([1, CUT]), call())
    for answer in await asyncio.gather(*others):
        assert answer.choices == quiet.choices
