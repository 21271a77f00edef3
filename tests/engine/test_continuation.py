"""A sequence goes on at another engine as if it had never left: the same tokens, log-probabilities and end."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.errors import InvalidRequestError
from attendant_engine.types import GenerationRequest, TokenLogprobs
from tests.engine.fakes import EOS_ID, Collected, fake_engine, generation, run_all

PROMPT = tuple(2 + (7 * i) % 50 for i in range(41))
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


def _logprobs(collected: Collected, request_id: str, index: int) -> list[TokenLogprobs]:
    return [entry for output in collected.by_sequence[request_id, index] for entry in output.logprobs or ()]


def _continued(request: GenerationRequest, whole: Collected, index: int, num_tokens: int) -> GenerationRequest:
    """What another engine is told after ``num_tokens`` of a sequence have come."""
    seed = whole.by_sequence[request.request_id, index][0].seed
    return replace(
        request,
        request_id="moved",
        n=1,
        index=index,
        output_token_ids=tuple(whole.token_ids(request.request_id, index)[:num_tokens]),
        params=replace(request.params, seed=seed),
    )


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.0, "n": 3},
        {"temperature": 0.8, "top_k": 7, "presence_penalty": 0.9, "frequency_penalty": 0.4, "repetition_penalty": 1.3},
        {"temperature": 1.0, "min_tokens": 12, "logit_bias": ((EOS_ID, 6.0),), "n": 2, "ignore_eos": False},
        {"logprobs": 3, "stop_token_ids": tuple(range(10, 20))},
    ],
    ids=["greedy", "drawn", "penalties", "min_tokens", "stops"],
)
@pytest.mark.parametrize("speculation", ["none", "ngram"])
def test_what_is_left_is_what_would_have_come(params: dict[str, Any], speculation: Literal["none", "ngram"]) -> None:
    request = generation("a", PROMPT, **{"max_tokens": 25, **params})
    whole = run_all(fake_engine(), request)
    for index in range(request.n):
        tokens = whole.token_ids("a", index)
        for num_tokens in range(len(tokens)):
            moved = run_all(fake_engine(speculation=speculation), _continued(request, whole, index, num_tokens))
            assert moved.token_ids("moved", index) == tokens[num_tokens:]
            assert _logprobs(moved, "moved", index) == _logprobs(whole, "a", index)[num_tokens:]
            last, expected = moved.last("moved", index), whole.last("a", index)
            assert (last.finish_reason, last.stop_token_id) == (expected.finish_reason, expected.stop_token_id)


def test_a_real_model_goes_on_with_the_same_bits() -> None:
    config = EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20, max_batch_tokens=32)
    engine, other = (load_engine(STORIES, "m", config) for _ in range(2))
    request = generation("a", tuple(range(5, 60)), max_tokens=30, temperature=0.9, logprobs=4, seed=11)
    whole = run_all(engine, request)
    for num_tokens in (1, 13, 29):
        moved = run_all(other, _continued(request, whole, 0, num_tokens), generation("b", tuple(range(9, 70)), max_tokens=9))
        assert moved.token_ids("moved", 0) == whole.token_ids("a", 0)[num_tokens:]
        assert _logprobs(moved, "moved", 0) == _logprobs(whole, "a", 0)[num_tokens:]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"output_token_ids": (2,) * 25}, "25 tokens have been generated already and max_tokens is 25"),
        ({"output_token_ids": (10**6,)}, "Token id 1000000 is outside the vocabulary"),
        ({"output_token_ids": (2,), "n": 2}, "n is 2; it must be from 1 to 1"),
        ({"index": 128}, "index is 128; it must be from 0 to 127"),
    ],
)
def test_what_cannot_be_continued_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        fake_engine().add_request(replace(generation("a", PROMPT, max_tokens=25), **changes))
