"""A row of logits has the same bits whatever shares its batch, its step, its cache and its threads.

Every test lives through cases that must not matter on one model, and the oracle compares all of them with each other:
see ``oracle``. ``python -m benchmarks.bit_equality`` does the same thousands of times.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest

from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_engine.types import EngineRequest, GenerationRequest, SamplingParams
from tests.engine.bit_equality import checkpoints
from tests.engine.bit_equality.cases import BLOCK_SIZES, Case, Outcome, Requests, Subject, Variant, random_case

NUM_REQUESTS = 20
NUM_RANDOM_CASES = 4

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or not for this processor")

_Names = tuple[str, str, str, str, InstructionSet]
"""A checkpoint, the dtype, how weights are held, how keys and values are, and the instruction set."""

_DECODERS: list[_Names] = [
    ("gpt2", "float32", "none", "auto", InstructionSet.AVX512_BF16),
    ("gpt2", "float32", "none", "auto", InstructionSet.AVX2),
    ("gpt2", "bfloat16", "int8", "auto", InstructionSet.AVX512_BF16),
    ("gpt2", "float32", "int8", "auto", InstructionSet.AVX2),
    ("llama", "float32", "none", "auto", InstructionSet.AVX512),
    ("llama", "bfloat16", "none", "auto", InstructionSet.AVX512_BF16),
    ("llama", "bfloat16", "none", "auto", InstructionSet.AVX2),
    ("llama", "bfloat16", "int4", "auto", InstructionSet.AVX512_BF16),
    ("llama", "bfloat16", "none", "int8", InstructionSet.AVX512_BF16),
    ("gpt2", "float32", "none", "int8", InstructionSet.AVX2),
    ("gpt2", "float32", "none", "bfloat16", InstructionSet.AVX512),
]
_ENCODERS: list[_Names] = [
    ("bert", "float32", "none", "auto", InstructionSet.AVX512_BF16),
    ("bert", "bfloat16", "int8", "auto", InstructionSet.AVX2),
    ("bert-classifier", "bfloat16", "none", "auto", InstructionSet.AVX512_BF16),
]


def _of(variants: list[_Names]) -> pytest.MarkDecorator:
    ids = [f"{name}-{dtype}-{weights}-{cache}-{isa.name.lower()}" for name, dtype, weights, cache, isa in variants]
    return pytest.mark.parametrize("served", variants, indirect=True, ids=ids, scope="module")


of_any_model = _of(_DECODERS + _ENCODERS)
# What is about caches and chunks: an encoder computes a text whole.
of_decoders = _of(_DECODERS)


@dataclass(frozen=True, slots=True)
class Served:
    """A model whose oracle has seen each of ``requests`` alone; ``alone`` are the answers then."""

    subject: Subject
    requests: Requests
    alone: dict[tuple[str, int], tuple[float, ...]]

    def check(self, case: Case) -> Outcome:
        """Live through a case; nothing in it may differ from any other life of this model."""
        before = self.subject.oracle.num_compared
        outcome = self.subject.run(case)
        assert self.subject.oracle.num_compared > before
        assert not self.subject.oracle.mismatches
        assert all(self.alone[key] == answer for key, answer in outcome.answers.items())
        return outcome

    def case(self, **settings: int) -> Case:
        """All requests at once, with a cache that has room for all."""
        case = Case(arrivals=tuple((0, request) for request in self.requests.all), num_blocks=1000)
        return replace(case, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    name, dtype, quantization, cache_dtype, instruction_set = request.param
    library = load_library()
    assert library is not None
    before, num_threads = library.instruction_set, library.num_threads
    if not library.force_instruction_set(instruction_set):
        pytest.skip(f"this processor lacks {instruction_set.name}")
    checkpoint = checkpoints.write(name, tmp_path_factory.mktemp(name))
    subject = Subject(
        Variant(
            checkpoint=checkpoint,
            dtype=dtype,
            quantization=quantization,
            kv_cache_dtype=cache_dtype,
            instruction_set=instruction_set,
        )
    )
    is_decoder = name in checkpoints.DECODERS
    requests = Requests(random.Random(name), count=NUM_REQUESTS, is_decoder=is_decoder, has_labels=name == "bert-classifier")
    alone = {key: answer for one in requests.all for key, answer in subject.run(Requests.alone(one)).answers.items()}
    yield Served(subject, requests, alone)
    library.force_instruction_set(before)
    library.set_num_threads(num_threads)


@of_any_model
@pytest.mark.parametrize("max_num_seqs", [2, 5, 64])
def test_alone_and_in_a_batch(served: Served, max_num_seqs: int) -> None:
    outcome = served.check(served.case(max_num_seqs=max_num_seqs))
    assert 2 <= outcome.max_sequences_of_step <= max_num_seqs


@of_any_model
def test_in_a_batch_of_256(served: Served) -> None:
    copies, names = [], count()
    alone = dict(served.alone)
    for _ in range(256 // NUM_REQUESTS + 1):
        for request in served.requests.all:
            copies.append(copy := replace(request, request_id=f"copy {next(names)}"))
            alone |= {(copy.request_id, index): served.alone[request.request_id, index] for index in range(_num_answers(request))}
    case = served.case(max_num_seqs=256, num_blocks=256 * 13, max_batch_tokens=20_000)
    outcome = replace(served, alone=alone).check(replace(case, arrivals=tuple((0, copy) for copy in copies[:256])))
    assert outcome.max_sequences_of_step >= 200


@of_any_model
@pytest.mark.parametrize("num_threads", [2, 3])
def test_on_any_number_of_threads(served: Served, num_threads: int) -> None:
    served.check(served.case(num_threads=num_threads, max_num_seqs=7))


@of_decoders
@pytest.mark.parametrize("max_batch_tokens", [2, 19, 67])
def test_in_chunks_of_any_size(served: Served, max_batch_tokens: int) -> None:
    case = served.case(max_batch_tokens=max_batch_tokens)
    outcome = served.check(replace(case, arrivals=case.arrivals[: 2 + max_batch_tokens // 4]))
    assert outcome.num_chunks > 0


@of_decoders
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_in_blocks_of_any_size(served: Served, block_size: int) -> None:
    served.check(served.case(block_size=block_size))


@of_decoders
def test_computed_again_after_a_preemption(served: Served) -> None:
    outcome = served.check(served.case(num_blocks=20, max_batch_tokens=300))
    assert outcome.num_preemptions > 0


@of_decoders
def test_behind_a_prefix_from_the_cache(served: Served) -> None:
    outcome = served.check(served.case(enable_prefix_caching=True, max_num_seqs=3, block_size=16))
    assert outcome.num_cached_tokens > 0


@of_decoders
def test_with_guesses_verified_in_one_pass(served: Served) -> None:
    params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
    prompts = [request.prompt_token_ids for request in served.requests.all[:8]]
    looping = [
        GenerationRequest(request_id=f"loop {place}", prompt_token_ids=prompt, params=params) for place, prompt in enumerate(prompts)
    ]
    plain = [served.subject.run(Requests.alone(request)).answers for request in looping]
    alone = {key: answer for answers in plain for key, answer in answers.items()}
    case = served.case(max_num_seqs=4)
    case = replace(case, arrivals=tuple((0, request) for request in looping), speculation="ngram")
    outcome = replace(served, alone=alone).check(case)
    assert outcome.num_accepted_guesses > 0


@of_any_model
@pytest.mark.parametrize("number", range(NUM_RANDOM_CASES))
def test_in_any_life(served: Served, number: int) -> None:
    case = random_case(random.Random(number), served.requests, max_requests=NUM_REQUESTS, max_steps=60)
    served.check(replace(case, num_threads=min(case.num_threads, 2)))


def _num_answers(request: EngineRequest) -> int:
    return request.n if isinstance(request, GenerationRequest) else 1
