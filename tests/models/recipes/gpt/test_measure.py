"""What is measured is right: against brute force, against known answers, and against a real server over gRPC."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from attendant_client import Client
from attendant_server.config import ModelSettings, Settings
from models.recipes.gpt.cases import make_cases, write_cases
from models.recipes.gpt.corpus import WorkFiles
from models.recipes.gpt.export import export_model
from models.recipes.gpt.measure.continuation import continue_openings, distinct_share, repeated_share
from models.recipes.gpt.measure.few_shot import (
    CALIBRATED,
    FREE,
    SCORED,
    SHOTS,
    Case,
    accuracies,
    mean_by_shots,
    measure_case,
    read_cases,
)
from models.recipes.gpt.measure.ngram import NgramModel
from models.recipes.gpt.measure.report import Measurements, write_report
from models.recipes.gpt.measure.text import Document, bits_per_byte, compressed_bits_per_byte, served_bits, windows
from models.recipes.gpt.model import GPT, ModelShape
from models.recipes.gpt.split import HELD_OUT_TASKS, is_held_out
from models.recipes.gpt.words import read_words
from tests.e2e.local_server import ServerThread
from tests.models.recipes.gpt.conftest import VOCAB_SIZE

VOCAB = 6
MODEL = "tiny-gpt"


def kneser_ney(text: Sequence[int], history: tuple[int, ...], token: int, highest: bool = True) -> float:
    """The probability of a token by the definition, recursion and all."""
    order = len(history) + 1
    # The count of a lower order is the number of different tokens before it.
    counts = Counter(ring_runs(text, order) if highest else [run[1:] for run in set(ring_runs(text, order + 1))])
    ones, twos = (sum(count == wanted for count in counts.values()) for wanted in (1, 2))
    discount = ones / (ones + 2 * twos) if ones else 0.5
    total = sum(count for gram, count in counts.items() if gram[:-1] == history)
    shorter = kneser_ney(text, history[1:], token, highest=False) if history else 1 / VOCAB
    if not total:
        return shorter
    types = sum(gram[:-1] == history for gram in counts)
    return (max(counts[(*history, token)] - discount, 0.0) + discount * types * shorter) / total


def ring_runs(text: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The runs of a text whose end is followed by its beginning, as the model counts them."""
    around = [*text, *text[: size - 1]]
    return [tuple(around[start : start + size]) for start in range(len(text))]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_probabilities_follow_the_definition_and_sum_to_one(order: int) -> None:
    rng = Random(order)
    text = [rng.randrange(VOCAB) for _ in range(90)]
    model = NgramModel(np.array(text, dtype=np.uint16), vocab_size=VOCAB, max_order=order)
    document = [rng.randrange(VOCAB) for _ in range(12)]
    padded = [0] * (order - 1) + document
    bits = model.bits(document, order=order, begin=0)
    for place in range(len(document)):
        history = tuple(padded[place : place + order - 1])
        probabilities = [2 ** -model.bits([*document[:place], token], order=order, begin=0)[-1] for token in range(VOCAB)]
        assert sum(probabilities) == pytest.approx(1.0)
        assert 2 ** -bits[place] == pytest.approx(kneser_ney(text, history, document[place]))


def test_a_longer_order_needs_fewer_bits_for_text_like_its_own() -> None:
    rng = Random(1)
    phrases = [[rng.randrange(1, 50) for _ in range(6)] for _ in range(12)]
    text = [token for _ in range(400) for token in rng.choice(phrases)]
    model = NgramModel(np.array([0, *text], dtype=np.uint16), vocab_size=50, max_order=5)
    document = [token for _ in range(20) for token in rng.choice(phrases)]
    one, three, five = (model.bits(document, order=order, begin=0).sum() for order in (1, 3, 5))
    assert five < three < one


@given(length=st.integers(0, 400), context=st.integers(2, 64))
def test_windows_score_each_place_but_the_first_once_and_keep_half_the_context(length: int, context: int) -> None:
    found = windows(length, context)
    assert [place for window in found for place in range(window.first_scored, window.end)] == list(range(1, length))
    for window in found:
        assert 0 < window.end - window.start <= context
        assert window.start == 0 or window.first_scored - window.start >= context // 2


class UniformClient:
    """Answers prompts as a model that knows nothing."""

    def __init__(self) -> None:
        self.num_prompts = 0

    def complete(self, model: str, prompt: Sequence[int], *, max_tokens: int, prompt_logprobs: int) -> object:
        self.num_prompts += 1
        positions = [SimpleNamespace(logprob=None if place == 0 else -math.log(VOCAB)) for place in range(len(prompt))]
        return SimpleNamespace(completions=[SimpleNamespace(prompt_logprobs=positions)])


def test_a_served_model_that_knows_nothing_needs_the_bits_of_guessing() -> None:
    client = UniformClient()
    bits = served_bits(cast(Client, client), "any", begin=0, context=16)
    document = Document(text="ab" * 50, token_ids=tuple(range(100)))
    assert bits_per_byte([document, document], bits) == pytest.approx(math.log2(VOCAB))
    assert client.num_prompts > 2 * 100 // 16


def test_compressors_need_less_for_what_repeats() -> None:
    noise = "".join(Random(1).choices("abcdefgh", k=4000))
    for name, bits in compressed_bits_per_byte([Document(text="abcdefgh" * 500, token_ids=())]).items():
        assert bits < 0.3 < 2.9 < compressed_bits_per_byte([Document(text=noise, token_ids=())])[name]


def test_repetition_is_counted_by_runs_of_words() -> None:
    assert distinct_share(["a b c d", "a b c e"]) == 3 / 4
    assert repeated_share(["a b c d a b c d", "a b c d"]) == 1 / 6
    assert distinct_share(["a"]) == 1.0
    assert repeated_share(["a"]) == 0.0


def test_cases_ask_what_was_held_out_and_show_what_was_not(data: Path, work: WorkFiles, tmp_path: Path) -> None:
    words = read_words(work.words)
    cases = list(make_cases(data, words, seed=0))
    assert {case.task for case in cases} >= {"capitalize", "prev_item", "labels: topic", "made up: numbers"}
    for case in cases:
        assert case.is_seen == (case.task not in HELD_OUT_TASKS)
        if case.task != "made up: arbitrary map":
            assert all(is_held_out(question) for question, _ in case.queries)
            assert not any(is_held_out(question) for question, _ in case.examples)
        else:
            assert set(case.queries) <= set(case.examples)
        if case.labels is not None:
            assert {right for _, right in case.queries} <= set(case.labels)
    assert write_cases(data, words, tmp_path / "cases.jsonl") == len(cases)
    assert list(read_cases(tmp_path / "cases.jsonl")) == cases


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(5)
    made = GPT(ModelShape(vocab_size=VOCAB_SIZE, max_positions=512, width=32, num_layers=1, num_heads=2))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
    return made


@pytest.fixture(scope="module")
def client(model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    directory = tmp_path_factory.mktemp("served") / MODEL
    export_model(model, tokenizer, directory)
    settings = Settings(
        models=(ModelSettings(name=MODEL, path=str(directory)),),
        http_port=0,
        grpc_port=0,
        device="cpu",
        dtype="float32",
        kv_cache_memory=8 * 2**20,
        local=True,
        log_level="error",
    )
    with ServerThread(settings) as server, Client(f"127.0.0.1:{server.call(lambda: server.server.grpc_port)}") as client:
        yield client


def test_bits_over_grpc_are_those_of_the_trainers_model(client: Client, model: GPT, tokenizer: Tokenizer) -> None:
    text = "The fox went to the barn to sing. The hen went to the river, 12 times.\n"
    token_ids = tokenizer.encode(text).ids
    assert client.tokenize(MODEL, text, add_special_tokens=False).token_ids == tuple(token_ids)
    sequence = torch.tensor([[0, *token_ids]])
    with torch.no_grad():
        logits = model(sequence[:, :-1], torch.arange(len(token_ids))[None])
    expected = float(cross_entropy(logits[0], sequence[0, 1:], reduction="sum")) / math.log(2)
    assert served_bits(client, MODEL, begin=0, context=512)(token_ids) == pytest.approx(expected, rel=1e-4)


def test_a_report_over_grpc_has_every_table_and_the_plot(client: Client, tmp_path: Path) -> None:
    cases = (
        Case(task="seen", is_seen=True, examples=(("a", "b"),) * 8, queries=(("a", "b"), ("c", "d")), labels=("b", "d")),
        Case(task="unseen", is_seen=False, examples=(("e", "f"),) * 8, queries=(("e", "f"),), labels=None),
    )
    scores = [score for case in cases for score in measure_case(client, MODEL, case)]
    assert [(score.way, score.shots) for score in scores if score.task == "seen"] == [
        (way, shots) for shots in SHOTS for way in (FREE, SCORED, CALIBRATED)
    ]
    by_label = accuracies(scores, way=SCORED)
    assert set(by_label) == {"seen"}
    assert all(value in (0.0, 0.5, 1.0) for value in by_label["seen"].values())
    found = Measurements(
        model=MODEL,
        receipt="float32 on cpu",
        bits_per_byte={"text": {MODEL: 2.0, "gzip -9": 3.0}},
        continuations=continue_openings(client, MODEL, ["The fox"]),
        scores=scores,
    )
    write_report(found, tmp_path, command="measure")
    report = (tmp_path / "measured.md").read_text()
    for heading in ("## Bits per byte", "## Few-shot accuracy", "### Tasks never seen", "### By labels, calibrated", "## Continuations"):
        assert heading in report
    assert "| gzip -9 | 3.000 |" in report
    assert ElementTree.parse(tmp_path / "few-shot.svg").getroot().tag.endswith("svg")


def test_the_mean_counts_each_task_the_same() -> None:
    rows = {"a": {0: 0.0, 8: 1.0}, "b": {0: 0.5, 8: 0.5}, "c": {0: 1.0, 8: 1.0}}
    assert mean_by_shots(rows, ["a", "b"]) == {0: 0.25, 8: 0.75}
    assert mean_by_shots(rows, []) == {}
