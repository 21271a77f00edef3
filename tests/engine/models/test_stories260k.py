"""The bundled Llama writes the published story, token for token."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.weights.loader import load_model
from tests.engine.models.checkpoints import BACKENDS
from tests.engine.models.steps import greedy

REPOSITORY = Path(__file__).parents[3]
MODEL = REPOSITORY / "models" / "stories260k"
EXPECTED = REPOSITORY / "tests" / "data" / "stories260k"
EXPECTED_IDS: list[int] = json.loads((EXPECTED / "expected_greedy_ids.json").read_text())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_256_known_greedy_ids_are_reproduced_also_in_company(backend: str) -> None:
    model = load_model(MODEL, dtype=torch.float32, device=torch.device("cpu"), attention_backend=backend)
    begin = [1, EXPECTED_IDS[0]]
    alone = greedy(model, [begin], 255)
    together = greedy(model, [begin, begin + EXPECTED_IDS[1:8], [1, 300, 301], begin], 255)
    assert alone[0] == EXPECTED_IDS[1:]
    assert together[0] == together[3] == EXPECTED_IDS[1:]
    assert together[1][:248] == EXPECTED_IDS[8:]


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_every_backend_starts_the_story_alike(backend: str) -> None:
    model = load_model(MODEL, dtype=torch.float32, device=torch.device("cpu"), attention_backend=backend)
    assert greedy(model, [[1, *EXPECTED_IDS[:40]]], 8) == [EXPECTED_IDS[40:48]]


def test_the_ids_are_the_published_text_and_back() -> None:
    tokenizer = Tokenizer.load(MODEL)
    text = (EXPECTED / "expected_greedy_text.txt").read_text().removesuffix("\n")
    assert tokenizer.decode(EXPECTED_IDS) == text
    assert list(tokenizer.encode(text, add_special_tokens=True).ids) == [1, *EXPECTED_IDS]


def test_the_card_states_the_digest_of_the_weights() -> None:
    model = load_model(MODEL, dtype=torch.float32, device=torch.device("cpu"), attention_backend="torch")
    assert model.digest == hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert model.digest in (MODEL / "README.md").read_text()
    assert model.config.eos_token_ids == (1, 2)
