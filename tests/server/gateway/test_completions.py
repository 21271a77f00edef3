"""Completions from one request to one answer: text, stops, echo, log-probabilities, n and best_of, usage and receipt."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.generation import MAX_IN_FLIGHT
from attendant_server.gateway.requests import CompletionRequest
from attendant_server.gateway.results import CompletionResult, Receipt
from tests.server.fakes import BOS_ID, EOS_ID, FakeLink, call, ids_of, model_info, says, spoken


async def _complete(gateway: Gateway, prompt: Any = "hi", **fields: Any) -> CompletionResult:
    return await gateway.complete(CompletionRequest(model="tiny", prompt=prompt, **{"max_tokens": 32, **fields}), call())


async def test_an_answer_has_text_tokens_usage_and_what_fixed_it(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("hello")
    result = await _complete(gateway, seed=11)
    (choice,) = result.choices
    assert (choice.text, choice.finish_reason, choice.stop_token_id) == ("hello", "stop", EOS_ID)
    assert choice.token_ids == (*ids_of("hello"), EOS_ID)
    assert link.generations[0].prompt_token_ids == (BOS_ID, *ids_of("hi"))
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.completion_tokens) == (3, 2, 6)
    assert result.receipt == Receipt(model_digest="d" * 64, engine_version="0.1.0", dtype="float32", device_kind="cpu", seed=11)
    assert result.timing.queue_s == 0.25
    assert gateway.num_active == 0


async def test_the_seed_that_was_drawn_is_the_engines_and_is_returned(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("x")
    seeds = [(await _complete(gateway)).receipt.seed for _ in range(2)]
    assert [request.params.seed for request in link.generations] == seeds
    assert seeds[0] != seeds[1]


async def test_text_is_never_half_a_character_and_ends_whole(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("a€", ends="length")
    (whole,) = (await _complete(gateway)).choices
    (cut,) = (await _complete(gateway, max_tokens=3)).choices
    assert (whole.text, cut.text, cut.finish_reason) == ("a€", "a\ufffd", "length")


async def test_a_stop_text_cuts_the_answer_counts_its_tokens_and_ends_the_engines_work(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("one two three", ends="length")
    (choice,) = (result := await _complete(gateway, stop=["two", "zzz"])).choices
    assert (choice.text, choice.stop_text, choice.stop_token_id, choice.finish_reason) == ("one ", "two", None, "stop")
    assert choice.token_ids == ids_of("one two")
    assert result.usage.completion_tokens == 7
    assert gateway.num_active == 0


async def test_the_engine_is_told_to_rest_after_a_stop_text_while_other_prompts_go_on(gateway: Gateway, link: FakeLink) -> None:
    task = asyncio.ensure_future(_complete(gateway, ["p", "q"], stop="b"))
    while len(link.submitted) < 2:
        await asyncio.sleep(0.001)
    stopped, going = (request.request_id for request in link.submitted)
    link.emit(SequenceOutput(request_id=stopped, token_ids=ids_of("ab")))
    while not link.aborted:
        await asyncio.sleep(0.001)
    assert (link.aborted, task.done()) == ([stopped], False)
    link.emit(SequenceOutput(request_id=going, token_ids=ids_of("c"), finish_reason="length"))
    assert [choice.text for choice in (await task).choices] == ["a", "c"]


async def test_stop_texts_do_not_count_before_min_tokens(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("abcabc", ends="length")
    (choice,) = (await _complete(gateway, stop="b", min_tokens=4)).choices
    assert choice.text == "abca"


async def test_an_ordinary_stop_token_is_in_the_tokens_but_not_in_the_text(gateway: Gateway, link: FakeLink) -> None:
    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        yield SequenceOutput(request_id=request.request_id, token_ids=ids_of("ab!"), finish_reason="stop", stop_token_id=ord("!"))

    link.answer = answer
    (choice,) = (await _complete(gateway, stop_token_ids=[ord("!")])).choices
    assert (choice.text, choice.token_ids, choice.stop_token_id) == ("ab", ids_of("ab!"), ord("!"))


async def test_logprobs_have_texts_and_offsets(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("aé")
    (choice,) = (await _complete(gateway, logprobs=2)).choices
    assert choice.logprobs is not None
    assert [position.token for position in choice.logprobs] == ["a", "\ufffd", "\ufffd", "</s>"]
    assert [position.token_bytes for position in choice.logprobs] == [b"a", b"\xc3", b"\xa9", b"</s>"]
    assert [position.text_offset for position in choice.logprobs] == [0, 1, 1, 2]
    assert [position.logprob for position in choice.logprobs] == [-token_id / 100 for token_id in choice.token_ids]
    assert [len(position.top) for position in choice.logprobs] == [2] * 4


async def test_echo_puts_the_prompt_first_and_scores_it_when_logprobs_are_asked(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("yo", ends="length")
    (choice,) = (await _complete(gateway, "hé", echo=True, logprobs=1)).choices
    assert choice.text == "héyo"
    assert choice.token_ids == ids_of("yo")
    assert choice.logprobs is not None
    assert [position.token_id for position in choice.logprobs] == [BOS_ID, *ids_of("hé"), *ids_of("yo")]
    assert choice.logprobs[0].logprob is None
    assert all(position.logprob is not None for position in choice.logprobs[1:])
    assert [position.text_offset for position in choice.logprobs] == [0, 0, 1, 1, 2, 3]
    assert choice.prompt_logprobs is None


@pytest.mark.parametrize("prompt", ["hé", [*ids_of("hé")]])
async def test_scoring_alone_generates_nothing(gateway: Gateway, link: FakeLink, prompt: Any) -> None:
    link.answer = says("")
    (choice,) = (result := await _complete(gateway, prompt, max_tokens=0, echo=True, logprobs=3, prompt_logprobs=1)).choices
    assert (choice.text, choice.token_ids, choice.finish_reason) == ("hé", (), "length")
    assert choice.prompt_logprobs is not None
    assert choice.logprobs is not None
    assert [len(position.top) for position in choice.logprobs[1:]] == [3] * (len(choice.logprobs) - 1)
    assert [len(position.top) for position in choice.prompt_logprobs[1:]] == [1] * (len(choice.logprobs) - 1)
    assert result.usage.completion_tokens == 0
    assert link.generations[0].params.prompt_logprobs == 3


async def test_echo_of_token_ids_is_their_text(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("!", ends="length")
    (choice,) = (await _complete(gateway, [*ids_of("aé")], echo=True)).choices
    assert choice.text == "aé!"


async def test_several_prompts_are_answered_in_order_with_n_outputs_each(gateway: Gateway, link: FakeLink) -> None:
    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        for index in reversed(range(request.n)):
            yield from spoken(request, f"{chr(request.prompt_token_ids[-1])}{index}", index=index)

    link.answer = answer
    result = await _complete(gateway, ["a", "b", "c"], n=2)
    assert [(choice.index, choice.text) for choice in result.choices] == [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1"), (4, "c0"), (5, "c1")]
    assert result.usage.prompt_tokens == 6


async def test_best_of_returns_the_most_probable_and_counts_all(gateway: Gateway, link: FakeLink) -> None:
    texts = ["zz", "ab", "mm"]

    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        for index in range(request.n):
            yield from spoken(request, texts[index], index=index, ends="length")

    link.answer = answer
    result = await _complete(gateway, n=2, best_of=3)
    assert [(choice.index, choice.text) for choice in result.choices] == [(0, "ab"), (1, "mm")]
    assert all(choice.logprobs is None for choice in result.choices)
    assert result.usage.completion_tokens == 6


async def test_a_long_list_is_sent_a_window_at_a_time(gateway: Gateway, link: FakeLink) -> None:
    task = asyncio.ensure_future(_complete(gateway, ["x"] * (MAX_IN_FLIGHT + 40)))
    while len(link.submitted) < MAX_IN_FLIGHT:
        await asyncio.sleep(0.001)
    for request in link.generations[:3]:
        for output in spoken(request, "y"):
            link.emit(output)
    while len(link.submitted) < MAX_IN_FLIGHT + 3:
        await asyncio.sleep(0.001)
    assert len(link.submitted) == MAX_IN_FLIGHT + 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(link.aborted) == MAX_IN_FLIGHT


async def test_tenants_and_salts_keep_their_own_prefix_cache(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("x")
    for tenant, salt in (("", ""), ("", "s"), ("t", ""), ("t", "s")):
        await gateway.complete(CompletionRequest(model="tiny", prompt="p", cache_salt=salt), call(tenant=tenant))
    assert len({request.cache_salt for request in link.generations}) == 4
    assert link.generations[0].cache_salt == ""


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({"prompt": "x" * 64}, "context_length_exceeded", "prompt", "the prompt has 65 tokens; this model takes at most 64"),
        ({"prompt": "x" * 63}, "context_length_exceeded", "prompt", "leaves no room to generate"),
        ({"prompt": ["ok", "x" * 99]}, "context_length_exceeded", "prompt[1]", "the prompt has 100 tokens"),
        ({"prompt": [259]}, "invalid_value", "prompt", "token id 259 of 'prompt' is outside the vocabulary; this model has ids 0 to 258"),
        ({"prompt": [-1]}, "invalid_value", "prompt", "token id -1"),
        ({"prompt": [[1], [10**40]]}, "invalid_value", "prompt[1]", "a number of more than 128 bits"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias", 'has the key "x"'),
        ({"logit_bias": {"999": 1}}, "invalid_value", "logit_bias", "token id 999"),
        ({"logit_bias": {"-1": 1}}, "invalid_value", "logit_bias", 'the key "-1"'),
        ({"stop_token_ids": [999]}, "invalid_value", "stop_token_ids", "token id 999"),
        ({"n": 3, "best_of": 2}, "invalid_value", "best_of", "'best_of' is 2 and 'n' is 3"),
        ({"prompt": ["x"] * 2048, "n": 9}, "invalid_value", "prompt", "asks for 18432 sequences"),
        ({"model": "tiyn"}, "model_not_found", "model", "did you mean 'tiny'?"),
        ({"model": "\ud800"}, "model_not_found", "model", "there is no model"),
    ],
)  # fmt: skip
async def test_what_this_model_cannot_do_is_said_with_value_bound_and_field(
    gateway: Gateway, link: FakeLink, fields: dict[str, Any], code: str, param: str, words: str
) -> None:
    request = CompletionRequest.model_construct(**{**CompletionRequest(model="tiny", prompt="hi").model_dump(), **fields})
    with pytest.raises(ServingError) as caught:
        await gateway.complete(request, call())
    assert (caught.value.code, caught.value.param) == (code, param)
    assert words in caught.value.message
    assert link.submitted == []
    assert gateway.num_active == 0
    link.answer = says("fine")
    assert (await _complete(gateway)).choices[0].text == "fine"


async def test_a_prompt_that_is_only_scored_may_fill_the_context(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("")
    assert (await _complete(gateway, "x" * 63, max_tokens=0)).usage.prompt_tokens == 64


async def test_an_encoder_does_not_complete_and_says_what_it_does(gateway: Gateway, link: FakeLink) -> None:
    link.info = model_info(kind="encoder", tasks=("embedding",))
    with pytest.raises(ServingError, match="model 'tiny' does not do completion; it does embedding") as caught:
        await _complete(gateway)
    assert caught.value.param == "model"


async def test_max_tokens_beyond_the_context_is_no_error(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("ok")
    await _complete(gateway, max_tokens=10_000_000)
    assert link.generations[0].params.max_tokens == 64
