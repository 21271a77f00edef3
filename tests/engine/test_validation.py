"""What cannot be served is refused at the door, with the field, the value and the bound, and leaves nothing behind."""

import math
from typing import Any, Literal

import pytest

from attendant_engine.engine import Engine
from attendant_engine.errors import ContextLengthError, EngineError, InvalidRequestError, QueueFullError, UnsupportedError
from attendant_engine.types import EngineRequest, PoolingRequest
from tests.engine.fakes import MAX_MODEL_LEN, VOCAB_SIZE, fake_engine, fake_model, generation, run_all


def _refusal(engine: Engine, request: EngineRequest) -> EngineError:
    with pytest.raises(EngineError) as refused:
        engine.add_request(request)
    assert not engine.has_work and engine.num_requests == 0
    return refused.value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_tokens", -1, "at least 0"),
        ("temperature", -0.1, "at least 0"),
        ("temperature", math.nan, "nan"),
        ("temperature", math.inf, "inf"),
        ("top_k", -1, "at least 0"),
        ("top_p", 0.0, "greater than 0"),
        ("top_p", 1.1, "from 0 to 1"),
        ("min_p", 1.1, "from 0 to 1"),
        ("repetition_penalty", 0.0, "greater than 0"),
        ("presence_penalty", math.nan, "finite"),
        ("frequency_penalty", -math.inf, "finite"),
        ("min_tokens", -1, "at least 0"),
        ("logprobs", -1, "at least 0"),
        ("prompt_logprobs", -1, "at least 0"),
        ("prompt_logprobs_start", 4, "from 0 to 3"),
        ("logit_bias", ((VOCAB_SIZE, 1.0),), str(VOCAB_SIZE - 1)),
        ("logit_bias", ((0, math.nan),), "finite"),
        ("stop_token_ids", (-1,), str(VOCAB_SIZE - 1)),
    ],
)
def test_a_parameter_out_of_its_range_is_named_with_its_bound(field: str, value: object, said: str) -> None:
    params: dict[str, Any] = {field: value}
    error = _refusal(fake_engine(), generation(**params))
    assert isinstance(error, InvalidRequestError) and error.param == field and said in error.message


@pytest.mark.parametrize("n", [0, -1, 129, 10**9])
def test_n_has_bounds(n: int) -> None:
    assert _refusal(fake_engine(), generation(n=n)).param == "n"


@pytest.mark.parametrize("prompt", [(), (VOCAB_SIZE,), (-1,), (2, 10**12)])
def test_prompts_that_are_empty_or_outside_the_vocabulary_are_refused(prompt: tuple[int, ...]) -> None:
    error = _refusal(fake_engine(), generation("a", prompt))
    assert error.code == "invalid_value" and error.param == "prompt"


def test_a_prompt_needs_room_for_a_token_unless_it_is_only_scored() -> None:
    full = tuple(2 + i % 50 for i in range(MAX_MODEL_LEN))
    error = _refusal(fake_engine(), generation("a", full))
    assert isinstance(error, ContextLengthError)
    assert str(MAX_MODEL_LEN) in error.message
    assert run_all(fake_engine(), generation("a", full, max_tokens=0)).last().finish_reason == "length"
    assert isinstance(_refusal(fake_engine(), generation("a", (*full, 2), max_tokens=0)), ContextLengthError)


def test_what_can_never_fit_into_the_cache_is_refused_and_what_just_fits_is_served() -> None:
    engine = fake_engine(num_blocks=5, block_size=4)
    error = _refusal(engine, generation("a", (2,) * 11, max_tokens=10))
    assert "11" in error.message and "10" in error.message and "20" in error.message
    assert len(run_all(engine, generation("a", (2,) * 10, max_tokens=10, n=3)).token_ids("a", 2)) == 10


def test_the_queue_is_bounded_and_takes_requests_again_when_it_has_drained() -> None:
    engine = fake_engine(max_queue=2)
    for request_id in ("a", "b"):
        engine.add_request(generation(request_id, max_tokens=1))
    with pytest.raises(QueueFullError) as refused:
        engine.add_request(generation("c"))
    assert "2" in refused.value.message
    run_all(engine)
    assert run_all(engine, generation("c")).last("c").finish_reason == "length"


def test_an_id_in_flight_cannot_be_used_again() -> None:
    engine = fake_engine()
    engine.add_request(generation("a"))
    with pytest.raises(InvalidRequestError, match="in flight"):
        engine.add_request(generation("a"))


def test_a_decoder_refuses_pooling_and_an_encoder_generation() -> None:
    decoder, encoder = fake_engine(), fake_engine(model=fake_model(is_decoder=False))
    assert isinstance(_refusal(encoder, generation()), UnsupportedError)
    tasks: tuple[Literal["embedding", "classification"], ...] = ("embedding", "classification")
    for task in tasks:
        request = PoolingRequest(request_id="a", prompt_token_ids=(1,), task=task)
        assert isinstance(_refusal(decoder, request), UnsupportedError)


@pytest.mark.parametrize("token_type_ids", [(0,), (0, 1, 2), (0, 0, -1)])
def test_token_types_must_be_one_a_token_and_known(token_type_ids: tuple[int, ...]) -> None:
    request = PoolingRequest(request_id="a", prompt_token_ids=(1, 2, 3), task="embedding", token_type_ids=token_type_ids)
    assert _refusal(fake_engine(model=fake_model(is_decoder=False)), request).param == "token_type_ids"


def test_a_text_longer_than_the_context_is_refused() -> None:
    request = PoolingRequest(request_id="a", prompt_token_ids=(1,) * (MAX_MODEL_LEN + 1), task="embedding")
    assert isinstance(_refusal(fake_engine(model=fake_model(is_decoder=False)), request), ContextLengthError)
