"""The whole way with a real engine and the bundled model: in process and over the link's sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.prefix_names import prefix_keys
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import CompletionRequest, FewShotExample, FewShotRequest
from attendant_server.gateway.results import CompletionDelta
from attendant_server.gateway.served_model import ServedModel
from attendant_server.link.base import ReplicaLink
from attendant_server.link.client import LinkClient
from attendant_server.link.local import LocalLink
from attendant_server.link.server import LinkServer
from attendant_server.metrics import ReplicaMetrics
from tests.server.fakes import call
from tests.server.link.replicas import TOKEN, until

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "stories260k"
GREEDY_IDS = tuple(json.loads((ROOT / "tests" / "data" / "stories260k" / "expected_greedy_ids.json").read_text("utf-8")))
NUM_TOKENS = 40


@pytest.fixture(params=["local", "remote"])
async def link(request: pytest.FixtureRequest) -> AsyncIterator[ReplicaLink]:
    metrics = ReplicaMetrics(model="stories", replica="r0")
    local = LocalLink(partial(load_engine, MODEL, "stories", EngineConfig(device="cpu")), replica_id="r0", metrics=metrics)
    local.start()
    await local.wait_loaded()
    assert local.status == "ready"
    server = LinkServer(local, token=TOKEN)
    link: ReplicaLink = local
    if request.param == "remote":
        link = LinkClient(f"127.0.0.1:{await server.start('127.0.0.1')}", token=TOKEN, replica_id="r0")
        await until(lambda: link.is_ready)
    yield link
    if link is not local:
        await link.close()
    await server.stop()
    await local.close()


@pytest.fixture
def gateway(link: ReplicaLink) -> Iterator[Gateway]:
    gateway = Gateway({"stories": ServedModel.load("stories", MODEL, links=[link])})
    yield gateway
    gateway.close()


async def _streamed(gateway: Gateway) -> tuple[int, ...]:
    request = CompletionRequest(model="stories", prompt=[1], max_tokens=NUM_TOKENS, temperature=0.0)
    ids: list[int] = []
    async for item in await gateway.stream_complete(request, call()):
        if isinstance(item, CompletionDelta):
            ids += item.token_ids
    return tuple(ids)


async def test_greedy_tokens_are_the_known_ones_alone_and_among_others(gateway: Gateway) -> None:
    assert await _streamed(gateway) == GREEDY_IDS[:NUM_TOKENS]
    assert set(await asyncio.gather(*(_streamed(gateway) for _ in range(16)))) == {GREEDY_IDS[:NUM_TOKENS]}


async def test_cancelled_streams_leave_the_engine_empty(gateway: Gateway) -> None:
    async def start_and_leave(num_items: int) -> None:
        request = CompletionRequest(model="stories", prompt="Once upon a time", max_tokens=400, ignore_eos=True)
        stream = await gateway.stream_complete(request, call())
        for _ in range(num_items):
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    await asyncio.gather(*(start_and_leave(number % 4) for number in range(24)))
    (card,) = gateway.list_models()
    assert card.is_ready
    empty = b'attendant_kv_cache_usage_ratio{model="stories",replica="r0"} 0.0'
    await until(lambda: empty in gateway.render_metrics())
    assert gateway.num_active == 0


async def test_labels_are_scored_as_a_continuation_is_and_the_examples_come_from_the_cache(gateway: Gateway) -> None:
    examples = [FewShotExample(input="a dog", output="animal"), FewShotExample(input="a car", output="thing")]
    labels = ["animal", "thing", "girl"]
    result = await gateway.few_shot(
        FewShotRequest(model="stories", examples=examples, queries=["a cat", "a bus", "Lily"], labels=labels), call()
    )
    prompt = "Input: a dog\nOutput: animal\n\nInput: a car\nOutput: thing\n\nInput: a bus\nOutput: "
    scored = await gateway.complete(
        CompletionRequest(model="stories", prompt=[prompt + label for label in labels], max_tokens=0, echo=True, logprobs=0), call()
    )
    for choice, (label, _, logprob) in zip(scored.choices, result.data[1].probs, strict=True):
        assert choice.logprobs is not None
        tail = [position for position in choice.logprobs if position.text_offset >= len(prompt) - 1]
        assert sum(position.logprob or 0.0 for position in tail) == pytest.approx(logprob, abs=1e-3), label
    for answer in result.data:
        assert sum(probability for _, probability, _ in answer.probs) == pytest.approx(1.0)
    assert result.usage.cached_tokens > result.usage.prompt_tokens / 2


async def test_a_gateway_knows_the_keys_of_what_an_engine_has_cached(gateway: Gateway, link: ReplicaLink) -> None:
    prompt = [1, *range(300, 350)]
    await gateway.complete(CompletionRequest(model="stories", prompt=prompt, max_tokens=1), call())
    expected = prefix_keys("", prompt, link.prefixes.block_size)
    assert len(expected) == 3
    await until(lambda: link.prefixes.keys >= set(expected))
