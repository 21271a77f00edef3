"""Native programs of every family against the `reference` backend on fresh random inputs, and against themselves, bit by bit."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import BertModel, PreTrainedModel

from attendant_engine.errors import InvalidRequestError
from attendant_engine.kernels.cpu.library import InstructionSet, KernelLibrary, load_library
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.native import NativeTrunk
from attendant_engine.weights.loader import load_model
from tests.engine.models.checkpoints import CPU, randomize, save_and_load
from tests.engine.models.steps import PagedSequences, packed_inputs
from tests.engine.models.test_bert_parity import random_config
from tests.engine.models.test_decoder_parity import random_gpt2, random_llama

Quantization = Literal["none", "int8", "int4"]

NUM_CONFIGS = 20
# Of the difference to the reference, as a share of the reference, both as Euclidean norms: three times the most that was
# seen in 180 configurations. Tiny networks with large random weights magnify what is rounded; real ones are far from it.
BOUNDS: dict[tuple[torch.dtype, Quantization], float] = {
    (torch.float32, "none"): 1e-5,
    (torch.bfloat16, "none"): 0.13,
    (torch.float32, "int8"): 0.45,
    (torch.bfloat16, "int8"): 0.45,
}


def random_bert(seed: int) -> BertModel:
    return BertModel(random_config(seed))


MAKERS: list[Callable[[int], PreTrainedModel]] = [random_gpt2, random_llama, random_bert]


@pytest.fixture
def library() -> Iterator[KernelLibrary]:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the CPU kernels are not built here")
    before = loaded.instruction_set
    yield loaded
    loaded.force_instruction_set(before)


def result(model: LoadedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return logits, or hidden states of a model without a head, of whole texts without a cache."""
    hidden = model.trunk(packed_inputs(texts, is_causal=model.config.is_causal))
    return (hidden if model.lm_head is None else model.lm_head(hidden)).clone()


def random_texts(model: LoadedModel, rng: random.Random, lengths: Sequence[int]) -> list[list[int]]:
    return [[rng.randrange(model.config.vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("index", range(NUM_CONFIGS))
@pytest.mark.parametrize("make", MAKERS)
@torch.inference_mode()
def test_a_native_program_is_near_the_reference_in_every_type(
    make: Callable[[int], PreTrainedModel], index: int, library: KernelLibrary, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**30)
    torch.manual_seed(seed)
    theirs = make(seed)
    randomize(theirs, seed)
    reference = save_and_load(theirs, tmp_path, backend="reference")
    texts = random_texts(reference, random.Random(seed), (11, 1, 19))
    expected = result(reference, texts)
    for (dtype, quantization), bound in BOUNDS.items():
        native = load_model(tmp_path, dtype=dtype, device=CPU, attention_backend="native", quantization=quantization)
        assert isinstance(native.trunk, NativeTrunk)
        error = (result(native, texts) - expected).norm() / expected.norm()
        assert error < bound, f"seed {seed}, {dtype}, {quantization}, configuration {index}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("make", [random_gpt2, random_llama])
@torch.inference_mode()
def test_logits_have_the_same_bits_alone_in_company_and_in_chunks_on_every_instruction_set(
    make: Callable[[int], PreTrainedModel], quantization: Quantization, dtype: torch.dtype, library: KernelLibrary, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**30)
    torch.manual_seed(seed)
    theirs = make(seed)
    randomize(theirs, seed)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=dtype, device=CPU, attention_backend="native", quantization=quantization)
    assert model.lm_head is not None
    rng = random.Random(seed)
    lengths = [rng.randint(1, 60) for _ in range(6)]
    texts = random_texts(model, rng, lengths)
    for instruction_set in InstructionSet:
        if instruction_set is InstructionSet.NONE or not library.force_instruction_set(instruction_set):
            continue
        alone = [result(model, [text]) for text in texts]
        assert torch.equal(result(model, texts), torch.cat(alone)), f"seed {seed}, {instruction_set.name}: in company"
        sequences = PagedSequences(model, num_sequences=len(texts), max_len=60)
        parts: list[list[torch.Tensor]] = [[] for _ in texts]
        given = [0] * len(texts)
        while min(left := [length - start for length, start in zip(lengths, given, strict=True)]) > 0:
            chunks = [rng.randint(1, count) for count in left]
            if any(chunk < count for chunk, count in zip(chunks, left, strict=True)):
                chunks = [min(chunk, max(count - 1, 1)) for chunk, count in zip(chunks, left, strict=True)]
            logits = model.lm_head(
                sequences.step([text[start : start + count] for text, start, count in zip(texts, given, chunks, strict=True)])
            ).clone()
            for part, rows in zip(parts, torch.split(logits, chunks), strict=True):
                part.append(rows)
            given = [start + count for start, count in zip(given, chunks, strict=True)]
        for part, whole in zip(parts, alone, strict=True):
            chunked = torch.cat(part)
            assert torch.equal(chunked, whole[: len(chunked)]), f"seed {seed}, {instruction_set.name}: in chunks"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["none", "int8"])
@torch.inference_mode()
def test_an_encoders_hidden_states_have_the_same_bits_in_any_company_and_on_any_number_of_threads(
    quantization: Quantization, dtype: torch.dtype, library: KernelLibrary, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**30)
    torch.manual_seed(seed)
    theirs = random_bert(seed)
    randomize(theirs, seed)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=dtype, device=CPU, attention_backend="native", quantization=quantization)
    rng = random.Random(seed)
    texts = random_texts(model, rng, [rng.randint(1, 48) for _ in range(12)])
    alone = [result(model, [text]) for text in texts]
    before = library.num_threads
    try:
        for num_threads in (1, 2, 3):
            library.set_num_threads(num_threads)
            for _ in range(5):
                chosen = rng.choices(range(len(texts)), k=rng.randint(1, 12))
                together = result(model, [texts[index] for index in chosen])
                assert torch.equal(together, torch.cat([alone[index] for index in chosen])), f"seed {seed}"
    finally:
        library.set_num_threads(before)


@torch.inference_mode()
def test_a_head_takes_the_rows_that_it_is_told(library: KernelLibrary, tmp_path: Path) -> None:
    theirs = random_gpt2(3)
    for backend in ("torch", "native"):
        model = save_and_load(theirs, tmp_path, backend=backend)
        assert model.lm_head is not None
        hidden = model.trunk(packed_inputs([[1, 2, 3, 4, 5]], is_causal=True))
        every = model.lm_head(hidden).clone()
        chosen = model.lm_head(hidden, torch.tensor([4, 0, 4], dtype=torch.int32))
        assert torch.equal(chosen, every[[4, 0, 4]])


@torch.inference_mode()
def test_numbers_that_are_not_finite_stay_so_in_their_own_sequence(library: KernelLibrary, tmp_path: Path) -> None:
    theirs = random_gpt2(5)
    model = save_and_load(theirs, tmp_path, backend="native")
    sequences = PagedSequences(model, num_sequences=2, max_len=20)
    clean = sequences.step([[1, 2, 3], [4, 5, 6, 7]]).clone()
    assert clean.isfinite().all()
    sequences.spoil(0)
    hidden = sequences.step([[8], [9]])
    assert not hidden[0].isfinite().any()
    assert hidden[1].isfinite().all()


def test_half_precision_that_the_kernels_do_not_have_is_refused_by_name_and_served_by_auto(library: KernelLibrary, tmp_path: Path) -> None:
    theirs = random_gpt2(0)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=torch.float16, device=CPU, attention_backend="auto")
    assert not isinstance(model.trunk, NativeTrunk)
    with pytest.raises(InvalidRequestError, match="native"):
        load_model(tmp_path, dtype=torch.float16, device=CPU, attention_backend="auto", quantization="int8")
