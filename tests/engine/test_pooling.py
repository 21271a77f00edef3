"""Pooling requests are answered whole, packed with their kind, by any mixture of options."""

from typing import Literal

import pytest

from attendant_engine.types import PoolingRequest
from tests.engine.fakes import fake_engine, fake_model, run_all

TEXT = (5, 9, 2, 30)


def _request(
    request_id: str, token_ids: tuple[int, ...] = TEXT, task: Literal["embedding", "classification"] = "embedding"
) -> PoolingRequest:
    return PoolingRequest(request_id=request_id, prompt_token_ids=token_ids, task=task)


def test_each_text_is_answered_as_it_would_be_alone() -> None:
    requests = [_request(f"r{i}", tuple(2 + (i + k) % 50 for k in range(1 + i % 20))) for i in range(40)]
    together = run_all(fake_engine(model=fake_model(is_decoder=False)), *requests)
    for request in requests:
        alone = run_all(fake_engine(model=fake_model(is_decoder=False)), request)
        assert alone.pooled[request.request_id].values == together.pooled[request.request_id].values
        assert alone.pooled[request.request_id].num_prompt_tokens == len(request.prompt_token_ids)


def test_steps_mix_tasks_and_keep_to_both_bounds() -> None:
    engine = fake_engine(model=fake_model(is_decoder=False), max_batch_tokens=10, max_num_seqs=3)
    requests = [_request(f"e{i}", (2,) * (1 + i)) for i in range(6)] + [_request(f"c{i}", task="classification") for i in range(4)]
    collected = run_all(engine, *requests)
    assert len(collected.pooled) == 10 and all(output.error is None for output in collected.pooled.values())
    for step in collected.steps:
        assert step.stats.num_tokens <= 10 and step.stats.num_sequences <= 3
    assert any(len({output.request_id[0] for output in step.outputs}) == 2 for step in collected.steps)
    assert all(len(collected.pooled[f"c{i}"].values) == 2 for i in range(4))


def test_pooling_and_normalisation_follow_each_request() -> None:
    model = fake_model(is_decoder=False)
    cls = PoolingRequest(request_id="cls", prompt_token_ids=TEXT, task="embedding", pooling="cls")
    last = PoolingRequest(request_id="last", prompt_token_ids=TEXT, task="embedding", pooling="last", normalize=True)
    collected = run_all(fake_engine(model=model), cls, last, _request("mean"))
    first_only = run_all(fake_engine(model=model), _request("first", TEXT[:1])).pooled["first"].values
    assert collected.pooled["cls"].values == first_only != collected.pooled["mean"].values
    assert sum(value * value for value in collected.pooled["last"].values) == pytest.approx(1.0, abs=1e-6)


def test_the_lower_priority_number_is_answered_first() -> None:
    engine = fake_engine(model=fake_model(is_decoder=False), max_num_seqs=1)
    late = PoolingRequest(request_id="urgent", prompt_token_ids=TEXT, task="embedding", priority=-1)
    collected = run_all(engine, _request("patient"), late)
    assert list(collected.pooled) == ["urgent", "patient"]


def test_a_cancelled_text_is_answered_so_and_computes_nothing() -> None:
    engine = fake_engine(model=fake_model(is_decoder=False))
    engine.add_request(_request("a"))
    engine.abort("a")
    step = engine.step()
    (output,) = step.outputs
    assert output.error is not None and output.error.code == "cancelled"
    assert step.stats.num_tokens == 0 and not engine.has_work
