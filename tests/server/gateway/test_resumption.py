"""A stream that another gateway began goes on here: the same pieces as if nothing had happened, or a refusal."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import EngineOutput, EngineRequest, ModelInfo, OutputError, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.interface import StreamItem
from attendant_server.gateway.requests import CompletionRequest, ReceivedOutput, Resume
from attendant_server.gateway.results import CompletionDelta, StreamEnd
from attendant_server.gateway.resumption import MAX_TOKEN_BYTES, ResumePoint
from attendant_server.gateway.seeds import seeds_of
from attendant_server.gateway.served_model import ServedModel
from attendant_server.link.base import OutputSink
from tests.server.fakes import FakeLink, call, model_info, says

MODEL = Path(__file__).resolve().parents[3] / "models" / "stories260k"
FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "Once upon a time", "temperature": 0.0},
    "drawn": {"prompt": "Once upon a time"},
    "several": {"prompt": ["Once upon", "The little", "Once upon"], "n": 2, "max_tokens": 6},
    "stop texts": {"prompt": "Lily went", "stop": ["the park", "day", ". "], "seed": 3, "n": 3, "min_tokens": 5},
    "log-probabilities": {"prompt": ["One day", "A dog"], "logprobs": 2, "prompt_logprobs": 1, "echo": True, "n": 2, "max_tokens": 5},
    "penalties": {"prompt": "Tom saw a", "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4},
}


class _EngineLink(FakeLink):
    """A replica whose engine answers one request after the other, slowly enough for its reader to take every token alone."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.info)
        self._engine = engine
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        super().submit(request, sink)
        task = asyncio.ensure_future(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, request: EngineRequest) -> None:
        async with self._turn:
            self._engine.add_request(request)
            while self._engine.has_work:
                for output in self._engine.step().outputs:
                    self.emit(output)
                    for _ in range(5):
                        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(MODEL, "stories", EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20))


@pytest.fixture(scope="module")
def stories_tokenizer() -> Tokenizer:
    return Tokenizer.load(MODEL)


@pytest.fixture
def stories(engine: Engine, stories_tokenizer: Tokenizer) -> Iterator[Gateway]:
    gateway = Gateway({"stories": ServedModel("stories", tokenizer=stories_tokenizer, links=[_EngineLink(engine)])})
    yield gateway
    gateway.close()


def _request(fields: dict[str, Any]) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "stories", "max_tokens": 12, "ignore_eos": True, **fields})


async def _read(gateway: Gateway, request: CompletionRequest, resume: Resume | None = None) -> list[StreamItem]:
    return [item async for item in await gateway.stream_complete(request, call(), resume=resume)]


def _cut(items: list[StreamItem]) -> Resume:
    """What a caller knows who has read ``items``."""
    token, outputs = b"", dict[int, ReceivedOutput]()
    for item in items:
        assert isinstance(item, CompletionDelta)
        token = item.resume_token or token
        before = outputs.get(item.index, ReceivedOutput(index=item.index))
        outputs[item.index] = ReceivedOutput(
            index=item.index, token_ids=before.token_ids + item.token_ids, is_finished=item.finish_reason is not None
        )
    return Resume(token=token, outputs=tuple(outputs.values()))


def _joined(items: list[StreamItem]) -> dict[int, tuple[Any, ...]]:
    """All that the pieces of each output add up to."""
    deltas = [item for item in items if isinstance(item, CompletionDelta)]
    return {
        index: (
            "".join(delta.text for delta in mine),
            [token_id for delta in mine for token_id in delta.token_ids],
            [position for delta in mine for position in delta.logprobs or ()],
            [delta.prompt_logprobs for delta in mine if delta.prompt_logprobs],
            [(delta.finish_reason, delta.stop_text, delta.stop_token_id) for delta in mine if delta.finish_reason],
        )
        for index in {delta.index for delta in deltas}
        if (mine := [delta for delta in deltas if delta.index == index])
    }


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
async def test_wherever_a_stream_is_cut_the_rest_is_what_would_have_come(stories: Gateway, engine: Engine, fields: dict[str, Any]) -> None:
    request = _request(fields)
    whole = await _read(stories, request)
    end = whole[-1]
    assert isinstance(end, StreamEnd)
    for place in range(1, len(whole)):
        engine.reset_prefix_cache()
        rest = await _read(stories, request, _cut(whole[:place]))
        assert _joined(whole[:place] + rest) == _joined(whole)
        last = rest[-1]
        assert isinstance(last, StreamEnd)
        assert last.receipt == end.receipt
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (end.usage.prompt_tokens, end.usage.completion_tokens)


async def test_a_resumed_stream_can_be_resumed_and_says_of_the_cache_what_the_first_said(stories: Gateway) -> None:
    request = _request({"prompt": "Once upon a time there was a little girl who lived in a small house near the park"})
    await _read(stories, request)
    whole = await _read(stories, request.model_copy(update={"seed": 4}))
    pieces = [item for item in whole if isinstance(item, CompletionDelta)]
    assert pieces[0].usage.cached_tokens > 0
    second = await _read(stories, request, _cut(whole[:2]))
    third = await _read(stories, request, _cut([*whole[:2], *second[:3]]))
    assert _joined([*whole[:2], *second[:3], *third]) == _joined(whole)
    assert isinstance(third[-1], StreamEnd)
    assert third[-1].usage.cached_tokens == pieces[0].usage.cached_tokens
    assert b'attendant_streams_resumed_total{model="stories"} 2.0' in stories.render_metrics()


async def test_a_receipts_seed_gives_every_output_again(stories: Gateway) -> None:
    # Hot and long enough that no two draws ever agree.
    request = _request({"prompt": ["Once upon", "The little", "Once upon"], "n": 2, "temperature": 2.0, "max_tokens": 40})
    first = await stories.complete(request, call())
    again = await stories.complete(request.model_copy(update={"seed": first.receipt.seed}), call())
    assert [choice.token_ids for choice in again.choices] == [choice.token_ids for choice in first.choices]
    assert first.choices[0].token_ids != first.choices[4].token_ids


def test_a_prompts_seed_is_the_requests_but_for_prompts_that_are_repeated() -> None:
    assert seeds_of(["a", "b", "a", "a"], 7) == (7, 7, 8, 9)
    assert seeds_of(["a", "a"], 2**63 - 1) == (2**63 - 1, -(2**63))


async def test_what_is_left_of_a_resumed_request_moves_when_its_replica_is_lost(tokenizer: Tokenizer) -> None:
    first, second = FakeLink(replica_id="r0"), FakeLink(replica_id="r1", answer=says("lo", ends="length"))
    gateway = Gateway({"tiny": ServedModel("tiny", tokenizer=tokenizer, links=[first])})
    request = CompletionRequest(model="tiny", prompt="p", n=2)
    first.answer = says("hel", ends="length")
    point = ResumePoint.read(_cut((await _read(gateway, request))[:1]).token)
    resume = Resume(token=point.token(), outputs=(ReceivedOutput(index=1, token_ids=tuple(b"hel")),))
    first.answer = lambda request: iter([first_loss(request)])

    def first_loss(request: EngineRequest) -> EngineOutput:
        gateway._models["tiny"].replicas.update([second])
        return SequenceOutput(request_id=request.request_id, finish_reason="error", error=OutputError(code="not_ready", message="lost"))

    items = await _read(gateway, request, resume)
    assert _joined(items)[1][0] == "lo"
    assert [(r.index, r.n, bytes(r.output_token_ids), r.params.seed) for r in second.generations if r.index == 1] == [
        (1, 1, b"hel", point.seed)
    ]
    gateway.close()


async def _refusal(gateway: Gateway, request: CompletionRequest, resume: Resume, tenant: str = "") -> str:
    with pytest.raises(ServingError) as caught:
        await gateway.stream_complete(request, call(tenant=tenant), resume=resume)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "resume")
    assert gateway.num_active == 0
    return caught.value.message


async def test_what_cannot_go_on_is_refused_with_the_reason(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("hello")
    request = CompletionRequest(model="tiny", prompt="p", stop="ll", max_tokens=8)
    good = _cut((await _read(gateway, request))[:1])
    (output,) = good.outputs
    point = ResumePoint.read(good.token)
    assert "none that this server gave" in await _refusal(gateway, request, replace(good, token=b"{}"))
    forged = replace(point, cached_tokens=2**31)
    assert "none that this server gave" in await _refusal(gateway, request, replace(good, token=forged.token()))
    assert f"at most {MAX_TOKEN_BYTES}" in await _refusal(gateway, request, replace(good, token=b"x" * 5000))
    for changes in ({"prompt": "q"}, {"temperature": 0.5}, {"seed": 1}, {"n": 2}, {"stop": "l"}, {"cache_salt": "s"}):
        other = CompletionRequest.model_validate({**request.model_dump(exclude_unset=True), **changes})
        assert "not the one" in await _refusal(gateway, other, good)
    assert "not the one" in await _refusal(gateway, request, good, tenant="other")
    for outputs, text in (
        ((replace(output, index=1),), "there is no output 1"),
        ((output, output), "there twice"),
        ((replace(output, token_ids=(1,) * 9),), "9 tokens and max_tokens is 8"),
        ((replace(output, token_ids=(10**6,)),), "outside the vocabulary"),
        ((replace(output, token_ids=tuple(b"hell"), is_finished=False),), "come to its stop text"),
    ):
        assert text in await _refusal(gateway, request, replace(good, outputs=outputs))
    link.info = model_info(digest="e" * 64)
    assert "begun with model_digest" in await _refusal(gateway, request, good)
    link.info = model_info(kernels="other")
    assert 'with kernels "torch" and this server now has "other"' in await _refusal(gateway, request, good)
    assert point.receipt.kernels == "torch"


async def test_a_gateway_that_has_not_heard_of_its_replicas_asks_to_come_back(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("hello")
    request = CompletionRequest(model="tiny", prompt="p")
    good = _cut((await _read(gateway, request))[:1])
    link.info = None
    with pytest.raises(ServingError) as caught:
        await gateway.stream_complete(request, call(), resume=good)
    assert caught.value.code == "not_ready"


async def test_of_replicas_that_differ_one_like_the_first_goes_on(tokenizer: Tokenizer) -> None:
    infos: list[ModelInfo] = [model_info(kernels=kernels) for kernels in ("avx2", "avx512")]
    links = [FakeLink(info, replica_id=info.kernels, answer=says("hello")) for info in infos]
    gateway = Gateway({"tiny": ServedModel("tiny", tokenizer=tokenizer, links=links)})
    request = CompletionRequest(model="tiny", prompt="p")
    for _ in range(4):
        whole = await _read(gateway, request)
        rest = await _read(gateway, request, _cut(whole[:1]))
        first, second = whole[-1], rest[-1]
        assert isinstance(first, StreamEnd)
        assert isinstance(second, StreamEnd)
        assert second.receipt == first.receipt
    gateway.close()
