"""Adapters beside one encoder: near the checkpoint that they are merged into, and for each row the bits that it has alone."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import BertForSequenceClassification, BertModel

from attendant_engine.config import AdapterSource
from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_engine.models.base import LoadedModel
from attendant_engine.weights.loader import load_model
from tests.engine.adapter_files import Recipe, merged, read_tensors, write_adapter
from tests.engine.models.checkpoints import BACKENDS, CPU, randomize
from tests.engine.models.steps import packed_inputs
from tests.engine.models.test_bert_parity import random_config

Quantization = Literal["none", "int8", "int4"]
Text = list[int]

TOLERANCE = 2e-4
RECIPES = (
    Recipe(rank=3, labels=("good", "bad"), seed=1),
    Recipe(targets=("query", "value"), rank=8, alpha=16, use_rslora=True, labels=("a", "b", "c"), seed=2),
    Recipe(targets=("attention.output.dense", "intermediate.dense"), rank=5, seed=3),
)

needs_kernels = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built here")


def random_classifier(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(random_config(seed))
    randomize(model, seed)
    model.train(False)
    return model


def write_all(directory: Path, model: BertForSequenceClassification | BertModel) -> list[AdapterSource]:
    model.save_pretrained(directory)
    return [write_adapter(directory / f"adapter-{number}", model, recipe) for number, recipe in enumerate(RECIPES)]


def load(
    directory: Path,
    adapters: Sequence[AdapterSource],
    backend: str,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
) -> LoadedModel:
    return load_model(directory, dtype=dtype, device=CPU, attention_backend=backend, quantization=quantization, adapters=adapters)


def random_texts(model: LoadedModel, seed: int, lengths: Sequence[int]) -> list[Text]:
    rng = random.Random(seed)
    return [[rng.randrange(model.config.vocab_size) for _ in range(length)] for length in lengths]


def random_mixture(model: LoadedModel, rng: random.Random) -> list[tuple[int | None, Text]]:
    """Return texts of the model and of every adapter, in the order in which a step has them."""
    texts = random_texts(model, rng.randrange(2**30), [rng.randint(1, 40) for _ in range(12)])
    owners = sorted(rng.choice([-1, 0, 1, 2]) for _ in texts)
    return [(None if owner < 0 else owner, text) for owner, text in zip(owners, texts, strict=True)]


def hidden_of(model: LoadedModel, texts: Sequence[tuple[int | None, Text]]) -> list[torch.Tensor]:
    """Return each text's hidden states; a text is (adapter's index or None, token ids), those with adapters last and in their order."""
    sizes = [sum(len(text) for owner, text in texts if owner == adapter) for adapter in (None, *range(len(model.adapters)))]
    bounds = tuple(torch.tensor(sizes).cumsum(0).tolist())
    inputs = packed_inputs([text for _, text in texts], is_causal=False)
    has_rows = bounds[0] < bounds[-1]
    hidden = model.trunk(replace(inputs, adapter_bounds=bounds if has_rows else None)).clone()
    return list(torch.split(hidden, [len(text) for _, text in texts]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_an_adapter_computes_what_the_merged_checkpoint_does(seed: int, backend: str, tmp_path: Path) -> None:
    theirs = random_classifier(seed)
    sources = write_all(tmp_path, theirs)
    ours = load(tmp_path, sources, backend)
    texts = random_texts(ours, seed, (13, 1, 29, 7))
    for index, (source, recipe) in enumerate(zip(sources, RECIPES, strict=True)):
        oracle = merged(theirs, source, recipe)
        hidden = torch.cat(hidden_of(ours, [(index, text) for text in texts]))
        head = ours.adapters[index].classification_head
        assert head is not None
        logits = head(hidden, packed_inputs(texts, is_causal=False).attention.cu_seqlens_q).clone()
        for text, states, row in zip(texts, torch.split(hidden, [len(text) for text in texts]), logits, strict=True):
            ids = torch.tensor([text])
            torch.testing.assert_close(states, oracle.bert(ids).last_hidden_state[0], rtol=TOLERANCE, atol=TOLERANCE)
            torch.testing.assert_close(row, oracle(ids).logits[0], rtol=TOLERANCE, atol=TOLERANCE)
    assert ours.adapters[0].labels == ("good", "bad") and ours.adapters[2].labels == ours.config.labels
    assert len({adapter.digest for adapter in ours.adapters} | {ours.digest}) == 4


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_head_may_classify_over_pooled_hidden_states(pooling: str, backend: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = BertModel(random_config(0), add_pooling_layer=False)
    randomize(theirs, 0)
    theirs.save_pretrained(tmp_path)
    source = write_adapter(tmp_path / "a", theirs, Recipe(labels=("x", "y", "z"), pooling=pooling))
    ours = load(tmp_path, [source], backend)
    texts = random_texts(ours, 0, (9, 1, 20))
    hidden = hidden_of(ours, [(0, text) for text in texts])
    tensors = read_tensors(source)
    head = ours.adapters[0].classification_head
    assert head is not None
    logits = head(torch.cat(hidden), packed_inputs(texts, is_causal=False).attention.cu_seqlens_q)
    for states, row in zip(hidden, logits, strict=True):
        vector = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(row, tensors["classifier.weight"] @ vector + tensors["classifier.bias"], rtol=1e-4, atol=1e-4)


def instruction_sets() -> list[InstructionSet]:
    library = load_library()
    return [] if library is None else [one for one in InstructionSet if InstructionSet.NONE < one <= library.instruction_set]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@torch.inference_mode()
def test_every_row_has_the_bits_that_it_has_alone_whatever_adapters_share_its_step(
    quantization: Quantization, dtype: torch.dtype, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**30)
    sources = write_all(tmp_path, random_classifier(seed))
    ours, plain = (load(tmp_path, adapters, "native", dtype, quantization) for adapters in (sources, []))
    library = load_library()
    assert library is not None
    before, num_threads = library.instruction_set, library.num_threads
    rng = random.Random(seed)
    try:
        for instruction_set in instruction_sets():
            library.force_instruction_set(instruction_set)
            mixed = random_mixture(ours, rng)
            library.set_num_threads(rng.randint(1, 3))
            together = hidden_of(ours, mixed)
            library.set_num_threads(1)
            for (owner, text), states in zip(mixed, together, strict=True):
                (alone,) = hidden_of(ours, [(owner, text)])
                assert torch.equal(alone, states), f"seed {seed}, adapter {owner}"
                (without,) = hidden_of(plain, [(None, text)])
                assert torch.equal(without, alone) == (owner is None), f"seed {seed}, adapter {owner}"
    finally:
        library.force_instruction_set(before)
        library.set_num_threads(num_threads)


@torch.inference_mode()
def test_in_torch_too_a_row_without_an_adapter_has_the_bits_that_it_has_without_any(tmp_path: Path) -> None:
    sources = write_all(tmp_path, random_classifier(7))
    ours, plain = (load(tmp_path, adapters, "torch") for adapters in (sources, []))
    mixed = random_mixture(ours, random.Random(7))
    without = hidden_of(plain, [(None, text) for _, text in mixed])
    for (owner, text), states, expected in zip(mixed, hidden_of(ours, mixed), without, strict=True):
        assert torch.equal(states, expected) == (owner is None)
        (alone,) = hidden_of(ours, [(owner, text)])
        torch.testing.assert_close(alone, states, rtol=1e-4, atol=1e-4)
