"""An engine answers for its model and for each adapter, mixed as they come, and every answer is the one that it gives alone."""

import random
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.errors import InvalidRequestError, UnsupportedError
from attendant_engine.types import PoolingRequest
from tests.engine.adapter_files import Recipe, write_adapter
from tests.engine.fakes import run_all
from tests.engine.models.checkpoints import BACKENDS, randomize

VOCAB_SIZE = 50
RECIPES = {
    "mood": Recipe(rank=3, labels=("sad", "glad"), pooling="mean", seed=1),
    "topic": Recipe(targets=("query", "value"), rank=8, labels=("a", "b", "c"), pooling="cls", seed=2),
    "other-vectors": Recipe(rank=2, seed=3),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(backend: str, tmp_path: Path) -> Engine:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=64
    )
    model = BertModel(config, add_pooling_layer=False)
    randomize(model, 0)
    model.save_pretrained(tmp_path)
    adapters = tuple(write_adapter(tmp_path / name, model, recipe) for name, recipe in RECIPES.items())
    engine_config = EngineConfig(
        device="cpu", dtype="float32", attention_backend=backend, adapters=adapters, max_batch_tokens=400, max_num_seqs=16
    )
    return load_engine(tmp_path, "m", engine_config)


def pooling(request_id: str, adapter: str | None, token_ids: tuple[int, ...] = (1, 2, 3)) -> PoolingRequest:
    is_classifier = adapter in ("mood", "topic")
    return PoolingRequest(
        request_id=request_id,
        prompt_token_ids=token_ids,
        task="classification" if is_classifier else "embedding",
        pooling=None if is_classifier else "mean",
        adapter=adapter,
    )


def test_every_answer_in_a_mixed_batch_is_the_one_alone_to_the_bit_on_native_kernels(engine: Engine, backend: str) -> None:
    rng = random.Random(5)
    requests = [
        pooling(str(i), rng.choice([None, *RECIPES]), tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 40))))
        for i in range(60)
    ]
    together = run_all(engine, *requests)
    by_id = {request.request_id: request.adapter for request in requests}
    mixed = [{by_id[output.request_id] for output in step.outputs} for step in together.steps]
    assert any(len(adapters) == 4 for adapters in mixed), "no step held the model and all adapters"
    for request in requests:
        alone = run_all(engine, request).pooled[request.request_id].values
        values = together.pooled[request.request_id].values
        assert values == alone if backend == "native" else values == pytest.approx(alone, abs=1e-4)


def test_the_same_text_is_answered_otherwise_by_each_adapter(engine: Engine) -> None:
    answers = run_all(engine, *(pooling(str(adapter), adapter) for adapter in (None, *RECIPES))).pooled
    assert [len(answers[str(adapter)].values) for adapter in (None, *RECIPES)] == [24, 2, 3, 24]
    assert answers["None"].values != answers["other-vectors"].values


def test_the_description_says_what_each_adapter_does(engine: Engine) -> None:
    found = {adapter.name: (adapter.tasks, adapter.labels, adapter.rank) for adapter in engine.info.adapters}
    assert found == {
        "mood": (("classification",), ("sad", "glad"), 3),
        "topic": (("classification",), ("a", "b", "c"), 8),
        "other-vectors": (("embedding",), (), 2),
    }
    assert engine.info.tasks == ("embedding",) and engine.info.labels == ()


def test_an_unknown_adapter_and_a_task_that_it_does_not_do_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="no adapter 'moods'; this model has mood, topic, other-vectors"):
        engine.add_request(pooling("x", "moods"))
    with pytest.raises(UnsupportedError, match="does not classify"):
        engine.add_request(PoolingRequest(request_id="y", prompt_token_ids=(1,), task="classification", adapter="other-vectors"))
    with pytest.raises(UnsupportedError, match="gives no embeddings"):
        engine.add_request(PoolingRequest(request_id="z", prompt_token_ids=(1,), task="embedding", adapter="mood"))
