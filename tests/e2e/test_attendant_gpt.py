"""The bundled GPT learned something: served, it does tasks better after examples, and it goes on with a story as the oracle does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from attendant_client import Client
from attendant_server.config import ModelSettings, Settings
from models.recipes.gpt.measure.few_shot import FREE, accuracies, mean_by_shots, measure_case, read_cases
from tests.e2e.local_server import ServerThread

_NAME = "attendant-gpt"
_MODEL = Path(__file__).resolve().parents[2] / "models" / _NAME
_OPENING = "Once upon a time there was a little girl who lived"
_NUM_TOKENS = 40


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    settings = Settings(
        models=(ModelSettings(name=_NAME, path=str(_MODEL)),), http_port=0, grpc_port=0, device="cpu", dtype="float32", log_level="error"
    )
    with ServerThread(settings) as server, Client(f"127.0.0.1:{server.server.grpc_port}") as client:
        yield client


def test_it_does_tasks_better_the_more_examples_it_sees(client: Client) -> None:
    cases = [case for case in read_cases(_MODEL / "few-shot-cases.jsonl") if case.is_seen][::12]
    scores = [score for case in cases for score in measure_case(client, _NAME, case, shots=(0, 8))]
    rows = accuracies(scores, way=FREE)
    means = mean_by_shots(rows, list(rows))
    assert means[8] > means[0] + 0.2, means


@torch.inference_mode()
def test_it_goes_on_with_a_story_as_transformers_does(client: Client) -> None:
    oracle: Any = transformers.AutoModelForCausalLM.from_pretrained(_MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(_MODEL)
    prompt = tokenizer(_OPENING, return_tensors="pt")
    expected = oracle.generate(**prompt, max_new_tokens=_NUM_TOKENS, do_sample=False)[0, prompt.input_ids.shape[1] :]
    (answer,) = client.complete(_NAME, _OPENING, max_tokens=_NUM_TOKENS, temperature=0).completions
    assert list(answer.token_ids) == expected.tolist()
    assert answer.text == tokenizer.decode(expected)
