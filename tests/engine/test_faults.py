"""A request that breaks the model ends alone, says nothing of the insides, and changes no bystander's token."""

import logging

import pytest

from attendant_engine.types import GenerationRequest, PoolingRequest
from tests.engine.fakes import NOT_FINITE_ID, RAISING_ID, fake_engine, fake_model, generation, run_all

BAD_IDS = pytest.mark.parametrize("bad_id", [RAISING_ID, NOT_FINITE_ID])


def _bystanders(count: int) -> list[GenerationRequest]:
    return [
        generation(
            f"good-{i}",
            tuple(2 + (i + k) % 50 for k in range(1 + i % 9)),
            max_tokens=5 + i % 7,
            temperature=float(i % 2),
            seed=i,
            n=1 + i % 2,
        )
        for i in range(count)
    ]


@BAD_IDS
@pytest.mark.parametrize("place", [0, 5, 16])
def test_bystanders_say_what_they_say_on_a_quiet_engine(bad_id: int, place: int) -> None:
    good = _bystanders(16)
    quiet = run_all(fake_engine(), *good)
    bad = generation("bad", (4, 5, bad_id, 6), max_tokens=5, n=2, temperature=1.0)
    faulty = run_all(fake_engine(), *good[:place], bad, *good[place:])
    for key in quiet.by_sequence:
        assert faulty.token_ids(*key) == quiet.token_ids(*key)
    for index in range(2):
        (only,) = faulty.by_sequence["bad", index]
        assert only.finish_reason == "error" and only.error is not None and only.error.code == "server_error"
        assert "secret" not in only.error.message


@BAD_IDS
def test_several_culprits_end_and_the_rest_goes_on(bad_id: int) -> None:
    good = _bystanders(5)
    bad = [generation(f"bad-{i}", (3, bad_id), max_tokens=3) for i in range(4)]
    collected = run_all(fake_engine(), *bad[:2], *good, *bad[2:])
    assert all(collected.last(request.request_id).finish_reason == "error" for request in bad)
    assert all(collected.last(request.request_id).finish_reason == "length" for request in good)


@pytest.mark.parametrize("chunk", [2, 5, 9])
def test_a_fault_within_a_prompt_is_found_and_its_blocks_serve_the_next_request_cleanly(chunk: int) -> None:
    engine = fake_engine(num_blocks=8, max_batch_tokens=chunk)
    prompt = (*range(2, 20), NOT_FINITE_ID, *range(2, 10))
    assert run_all(engine, generation("bad", prompt, max_tokens=2)).last("bad").finish_reason == "error"
    expected = run_all(fake_engine(), generation("a", tuple(range(2, 28)), max_tokens=5)).token_ids()
    assert run_all(engine, generation("a", tuple(range(2, 28)), max_tokens=5)).token_ids() == expected
    again = run_all(engine, generation("bad", prompt, max_tokens=2))
    assert again.by_sequence["bad", 0][0].num_cached_tokens <= 18, "nothing computed from the fault on may be kept"


def test_the_trace_is_logged_for_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        run_all(fake_engine(), generation("bad", (RAISING_ID,)))
    assert "a secret of the model's insides" in caplog.text


@BAD_IDS
def test_pooling_faults_stay_alone_too(bad_id: int) -> None:
    model = fake_model(is_decoder=False)
    good = [PoolingRequest(request_id=f"good-{i}", prompt_token_ids=(2 + i, 3), task="embedding") for i in range(5)]
    bad = PoolingRequest(request_id="bad", prompt_token_ids=(2, bad_id), task="embedding")
    quiet = run_all(fake_engine(model=model), *good)
    collected = run_all(fake_engine(model=model), *good[:3], bad, *good[3:])
    error = collected.pooled["bad"].error
    assert error is not None and error.code == "server_error" and collected.pooled["bad"].values == ()
    for request in good:
        assert collected.pooled[request.request_id].values == quiet.pooled[request.request_id].values
