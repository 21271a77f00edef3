"""The bundled models are what their cards say, and the tiny ones do the little that they promise."""

from pathlib import Path

import pytest
import torch

from attendant_engine.models.base import LoadedModel
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.weights.loader import load_model
from tests.engine.models.checkpoints import BACKENDS
from tests.engine.models.steps import packed_inputs

MODELS = Path(__file__).parents[3] / "models"


def load(name: str, backend: str = "auto") -> tuple[LoadedModel, Tokenizer]:
    model = load_model(MODELS / name, dtype=torch.float32, device=torch.device("cpu"), attention_backend=backend)
    return model, Tokenizer.load(MODELS / name)


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [list(tokenizer.encode(text, add_special_tokens=True).ids) for text in texts]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/config.json")))
def test_the_card_of_a_bundled_model_states_its_digest(name: str) -> None:
    model, tokenizer = load(name)
    assert model.digest in (MODELS / name / "README.md").read_text()
    assert tokenizer.vocab_size <= model.config.vocab_size


def test_all_weights_together_are_small_enough_to_be_fetched_with_the_code() -> None:
    assert sum(path.stat().st_size for path in MODELS.glob("**/*.safetensors")) < 120e6


@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_the_encoder_puts_a_paraphrase_nearer_than_other_sentences(backend: str) -> None:
    model, tokenizer = load("tiny-encoder", backend)
    assert (model.config.pooling, model.config.normalize) == ("mean", True)
    assert model.pooling_head is not None
    texts = [
        "I lost my keys yesterday.",
        "Yesterday I lost my key.",
        "The train leaves at nine in the morning.",
        "My brother is a good doctor.",
    ]
    inputs = packed_inputs(ids_of(tokenizer, texts), is_causal=False)
    vectors = model.pooling_head(model.trunk(inputs), inputs.attention.cu_seqlens_q, ("mean",) * 4, (True,) * 4)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    similarities = vectors @ vectors.T
    assert similarities[0, 1] > 0.7 > similarities[0, 2:].max()


@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_the_classifier_tells_praise_from_complaint(backend: str) -> None:
    model, tokenizer = load("tiny-classifier", backend)
    assert model.config.labels == ("con", "pro")
    assert model.classification_head is not None
    texts = ["great sound quality and easy to use", "excellent picture, small size", "too expensive and breaks easily", "poor battery life"]
    inputs = packed_inputs(ids_of(tokenizer, texts), is_causal=False)
    logits = model.classification_head(model.trunk(inputs), inputs.attention.cu_seqlens_q)
    assert [model.config.labels[label_id] for label_id in logits.argmax(1).tolist()] == ["pro", "pro", "con", "con"]
