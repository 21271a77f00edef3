"""The bundled encoder and its adapters load, are what their card says, and tell plain cases apart."""

import json
from pathlib import Path

import pytest
import torch

from attendant_engine.config import AdapterSource, EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import PoolingRequest
from tests.engine.fakes import run_all
from tests.engine.models.test_minilm import WEIGHTS_SHA256

MODEL = Path(__file__).parents[3] / "models" / "attendant-minilm"
ADAPTERS = ("intent", "sentiment", "topic")
CASES = [
    ("sentiment", "a warm, funny and clever film", "positive"),
    ("sentiment", "dull, far too long and badly acted", "negative"),
    ("topic", "how much money is in my checking account", "banking"),
    ("topic", "find me a flight to london next week", "travel"),
    ("intent", "please set a timer for ten minutes", "timer"),
    ("intent", "will it rain in boston tomorrow", "weather"),
    ("intent", "how do you say good morning in french", "translate"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    adapters = tuple(AdapterSource(name=name, path=str(MODEL / "adapters" / name)) for name in ADAPTERS)
    return load_engine(MODEL, "m", EngineConfig(device="cpu", dtype="float32", adapters=adapters))


def test_the_card_names_the_weights_and_their_source(engine: Engine) -> None:
    card = (MODEL / "README.md").read_text("utf-8")
    assert engine.info.digest in card and WEIGHTS_SHA256 in card
    for path in MODEL.glob("adapters/*/adapter_config.json"):
        assert json.loads(path.read_text("utf-8"))["base_model_name_or_path"] == "attendant-minilm"


def test_all_files_together_leave_room_for_the_other_models() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 60e6


def test_plain_cases_get_the_labels_that_they_should_in_one_batch_with_embeddings(engine: Engine) -> None:
    tokenizer = Tokenizer.load(MODEL)
    labels = {adapter.name: adapter.labels for adapter in engine.info.adapters}
    assert {name: len(found) for name, found in labels.items()} == {"sentiment": 2, "topic": 10, "intent": 151}
    requests = [
        PoolingRequest(request_id=str(number), prompt_token_ids=ids, task="classification", adapter=name)
        for number, (name, text, _) in enumerate(CASES)
        for ids in [tokenizer.encode(text, add_special_tokens=True).ids]
    ]
    vector = PoolingRequest(request_id="vector", prompt_token_ids=requests[0].prompt_token_ids, task="embedding")
    answers = run_all(engine, vector, *requests).pooled
    assert sum(value * value for value in answers["vector"].values) == pytest.approx(1, abs=1e-5)
    said = [labels[name][int(torch.tensor(answers[str(number)].values).argmax())] for number, (name, _, _) in enumerate(CASES)]
    assert said == [label for _, _, label in CASES]
