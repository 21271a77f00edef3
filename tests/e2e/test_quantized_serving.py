"""Weights in fewer bits behind a whole server: every task answers, says what computed it, and answers the same again."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.local import StartError
from tests.e2e.local_server import ServerThread

MODELS = Path(__file__).parents[2] / "models"
NAMES = ("stories260k", "tiny-encoder", "tiny-classifier")

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")


def settings(**changes: object) -> Settings:
    models = [ModelSettings(name=name, path=str(MODELS / name)) for name in NAMES]
    return Settings.model_validate({"models": models, "http_port": 0, "grpc_port": 0, "kv_cache_memory": "16MiB"} | changes)


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantization(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(quantization: str) -> Iterator[str]:
    with ServerThread(settings(quantization=quantization)) as server:
        yield server.url


def post(url: str, route: str, body: dict[str, object]) -> dict[str, object]:
    answer = httpx.post(url + route, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_the_receipt_and_the_card_say_what_computed(url: str, quantization: str) -> None:
    library = load_library()
    assert library is not None
    expected = {
        "quantization": quantization,
        "kernels": library.instruction_set.name.lower(),
        "dtype": "bfloat16" if library.instruction_set is InstructionSet.AVX512_BF16 else "float32",
    }
    answer = post(url, "/v1/completions", {"model": "stories260k", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0})
    receipt = answer["receipt"]
    assert isinstance(receipt, dict) and receipt.items() >= expected.items()
    cards = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert [card["id"] for card in cards] == list(NAMES)
    assert all(card.items() >= expected.items() for card in cards)


def test_a_story_is_the_same_story_alone_and_in_company(url: str) -> None:
    prompts = ["Once upon a time", "The dog", "One day, Lily", "A big red ball was"]
    wanted = {"model": "stories260k", "max_tokens": 24, "temperature": 0, "cache_salt": "alone"}
    alone = [post(url, "/v1/completions", {**wanted, "prompt": prompt})["choices"] for prompt in prompts]
    together = post(url, "/v1/completions", {**wanted, "prompt": prompts, "cache_salt": "together"})["choices"]
    assert isinstance(together, list)
    texts = [choices[0]["text"] for choices in alone if isinstance(choices, list)]
    assert texts == [choice["text"] for choice in together] and all(texts)


def test_vectors_and_labels_come_from_quantized_models_too(url: str) -> None:
    vectors = post(url, "/v1/embeddings", {"model": "tiny-encoder", "input": ["A cat sat.", "A dog ran."]})["data"]
    assert isinstance(vectors, list) and len(vectors) == 2
    assert sum(value * value for value in vectors[0]["embedding"]) == pytest.approx(1.0, abs=1e-4)
    labels = post(url, "/v1/classify", {"model": "tiny-classifier", "input": "What a lovely day."})["data"]
    assert isinstance(labels, list) and sum(labels[0]["probs"].values()) == pytest.approx(1.0, abs=1e-6)


def test_a_choice_that_cannot_be_had_is_one_sentence_at_the_start() -> None:
    expected = "Model 'stories260k': .*quantization is int8, .*the CPU kernels compute in float32 and bfloat16 while dtype is float16; "
    with pytest.raises(StartError, match=expected), ServerThread(settings(quantization="int8", dtype="float16")):
        pass
