"""Random lives of an engine: who arrives when, how large a step, a block and the cache may be, how many threads compute."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from attendant_engine.config import EngineConfig
from attendant_engine.description import describe_model
from attendant_engine.engine import Engine
from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.native import NativeTrunk
from attendant_engine.plan import plan_model, torch_dtype
from attendant_engine.sequence import ScheduledStep, StepResult
from attendant_engine.types import EngineRequest, GenerationRequest, PooledOutput, PoolingRequest, SamplingParams, SequenceOutput
from attendant_engine.weights.loader import load_model
from tests.engine.bit_equality.checkpoints import VOCAB_SIZE
from tests.engine.bit_equality.oracle import BitOracle, RecordedHead, RecordedTrunk, Recorder

BLOCK_SIZES = (16, 32, 48, 64)
NUM_THREADS = (1, 2, 3, 4)
MAX_PROMPT_TOKENS = 150
MAX_NEW_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What may change a bit: the weights and how they are held, and the instruction set."""

    checkpoint: Path
    dtype: str = "float32"
    quantization: str = "none"
    kv_cache_dtype: str = "auto"
    instruction_set: InstructionSet = InstructionSet.NONE

    @property
    def config(self) -> EngineConfig:
        """An engine for it, and nothing else chosen."""
        return EngineConfig(
            device="cpu",
            dtype=self.dtype,  # type: ignore[arg-type]
            quantization=self.quantization,  # type: ignore[arg-type]
            kv_cache_dtype=self.kv_cache_dtype,  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What may not change a bit. ``arrivals`` are (step, request); ``num_blocks`` holds the longest of them at least."""

    arrivals: tuple[tuple[int, EngineRequest], ...]
    block_size: int = 16
    num_blocks: int = 64
    max_batch_tokens: int = 4096
    max_num_seqs: int = 256
    num_threads: int = 1
    enable_prefix_caching: bool = False
    speculation: str = "none"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a case did, and every sequence's tokens and every text's vector by their requests' ids."""

    max_rows_of_step: int = 0
    max_sequences_of_step: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    num_accepted_guesses: int = 0
    num_chunks: int = 0
    answers: dict[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)


class Subject:
    """One variant's model, every computation of which an oracle of its own sees."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.oracle = BitOracle()
        library = load_library()
        assert library is not None, "there are no kernels to test"
        self._library = library
        if variant.instruction_set is not InstructionSet.NONE:
            assert library.force_instruction_set(variant.instruction_set), "this machine lacks the instruction set"
        self._model = load_model(
            variant.checkpoint,
            dtype=torch_dtype(variant.config),
            device=torch.device("cpu"),
            attention_backend="native",
            quantization=variant.quantization,  # type: ignore[arg-type]
        )
        assert isinstance(self._model.trunk, NativeTrunk), "torch serves this model"

    def run(self, case: Case) -> Outcome:
        """Live through ``case`` to its end. Raises where a request fails or the engine stops getting on."""
        self._library.set_num_threads(case.num_threads)
        recorder = Recorder(self.oracle)
        engine = self._engine(case, recorder)
        outcome, arrivals, step_index = Outcome(), list(case.arrivals), 0
        while arrivals or engine.has_work:
            while arrivals and (arrivals[0][0] <= step_index or not engine.has_work):
                engine.add_request(arrivals.pop(0)[1])
            output = engine.step()
            engine.check_integrity()
            _note(outcome, recorder.step)
            outcome.num_preemptions += output.stats.num_preemptions
            outcome.num_cached_tokens += output.stats.num_cached_prompt_tokens
            for said in output.outputs:
                assert said.error is None, said.error
                _add_answer(outcome, said)
            step_index += 1
            assert step_index < 20_000, "the engine makes no progress"
        return outcome

    def _engine(self, case: Case, recorder: Recorder) -> Engine:
        config = replace(
            self.variant.config,
            attention_backend="native",
            block_size=case.block_size,
            max_batch_tokens=case.max_batch_tokens,
            max_num_seqs=case.max_num_seqs,
            enable_prefix_caching=case.enable_prefix_caching,
            speculation=case.speculation,  # type: ignore[arg-type]
        )
        plan = plan_model(self.variant.checkpoint, config)
        info = describe_model(self._model, plan, path=self.variant.checkpoint, name="m")
        is_decoder = self._model.lm_head is not None
        engine = Engine(_recorded(self._model, recorder), info, plan.config, num_blocks=case.num_blocks if is_decoder else 0)
        run = engine._runner.run

        def run_recorded(step: ScheduledStep) -> StepResult:
            recorder.step = step
            return run(step)

        engine._runner.run = run_recorded  # type: ignore[method-assign]
        return engine


def _recorded(model: LoadedModel, recorder: Recorder) -> LoadedModel:
    head = None if model.lm_head is None else RecordedHead(model.lm_head, recorder)
    return replace(model, trunk=RecordedTrunk(model.trunk, recorder), lm_head=head)


def _note(outcome: Outcome, step: ScheduledStep) -> None:
    outcome.max_sequences_of_step = max(outcome.max_sequences_of_step, len(step.sequences), len(step.pooled))
    num_rows = sum(item.num_tokens for item in step.sequences) + sum(state.num_tokens for state in step.pooled)
    outcome.max_rows_of_step = max(outcome.max_rows_of_step, num_rows)
    outcome.num_chunks += sum(1 for item in step.sequences if not item.samplers and item.num_tokens > 0)


def _add_answer(outcome: Outcome, said: SequenceOutput | PooledOutput) -> None:
    if isinstance(said, PooledOutput):
        outcome.answers[said.request_id, 0] = said.values
        return
    key = (said.request_id, said.index)
    outcome.answers[key] = (*outcome.answers.get(key, ()), *said.token_ids)
    outcome.num_accepted_guesses += max(0, len(said.token_ids) - 1)


class Requests:
    """A fixed set of random requests, many of which begin alike or repeat themselves.

    ``alone`` is the case in which one of them has the engine to itself.
    """

    def __init__(self, rng: random.Random, *, count: int, is_decoder: bool, has_labels: bool = False) -> None:
        self._rng = rng
        documents = [[rng.randrange(1, VOCAB_SIZE) for _ in range(MAX_PROMPT_TOKENS)] for _ in range(4)]
        motif = documents[0][:7]
        documents.append((motif * MAX_PROMPT_TOKENS)[:MAX_PROMPT_TOKENS])
        make = self._generation if is_decoder else self._labelling if has_labels else self._embedding
        self.all = tuple(make(str(number), self._prompt(documents)) for number in range(count))

    @staticmethod
    def alone(request: EngineRequest) -> Case:
        """One thread, one chunk, no cache of prefixes, no guesses."""
        return Case(arrivals=((0, request),))

    def _prompt(self, documents: list[list[int]]) -> tuple[int, ...]:
        rng, document = self._rng, self._rng.choice(documents)
        length = rng.choice([rng.randint(1, 8), rng.randint(1, 60), rng.randint(60, MAX_PROMPT_TOKENS)])
        num_own = rng.choice([0, 1, rng.randint(0, length)])
        return (*document[: length - num_own], *(rng.randrange(1, VOCAB_SIZE) for _ in range(min(num_own, length))))

    def _generation(self, request_id: str, prompt: tuple[int, ...]) -> GenerationRequest:
        rng = self._rng
        params = SamplingParams(
            max_tokens=rng.randint(1, MAX_NEW_TOKENS),
            temperature=rng.choice([0.0, 0.0, 1.0]),
            top_k=rng.choice([0, 5]),
            seed=rng.randrange(1000),
            ignore_eos=True,
            prompt_logprobs=rng.choice([None, None, None, 1]),
        )
        return GenerationRequest(request_id=request_id, prompt_token_ids=prompt, params=params, n=rng.choice([1, 1, 1, 2]))

    def _embedding(self, request_id: str, prompt: tuple[int, ...]) -> PoolingRequest:
        pooling = self._rng.choice(["mean", "cls"])
        normalize = self._rng.random() < 0.5
        types = tuple(int(index > len(prompt) // 2) for index in range(len(prompt)))
        return PoolingRequest(
            request_id=request_id,
            prompt_token_ids=prompt,
            task="embedding",
            token_type_ids=self._rng.choice([None, types]),
            pooling=pooling,  # type: ignore[arg-type]
            normalize=normalize,
        )

    def _labelling(self, request_id: str, prompt: tuple[int, ...]) -> PoolingRequest:
        return PoolingRequest(request_id=request_id, prompt_token_ids=prompt, task="classification")


def random_case(rng: random.Random, requests: Requests, *, max_requests: int = 256, max_steps: int = 300) -> Case:
    """Choose some requests and a life for them: small and large steps, a cache with room for all or for hardly one.

    A life has about ``max_steps`` steps at most, so fewer requests where a step is small.
    """
    max_batch_tokens = rng.choice([1, rng.randint(2, 16), rng.randint(2, 200), 512, 4096])
    max_num_seqs = rng.choice([1, rng.randint(2, 8), 64, 256])
    budget_tokens, budget_new_tokens = max_steps * max_batch_tokens, max_steps * min(max_num_seqs, max_batch_tokens)
    num_wanted = rng.choice([rng.randint(2, 6), rng.randint(2, 40), rng.randint(2, max_requests)])
    chosen: list[EngineRequest] = []
    for request in rng.sample(requests.all, min(len(requests.all), num_wanted)):
        num_new = request.params.max_tokens * request.n if isinstance(request, GenerationRequest) else 1
        budget_tokens -= len(request.prompt_token_ids) + num_new
        budget_new_tokens -= num_new
        if chosen and min(budget_tokens, budget_new_tokens) < 0:
            break
        chosen.append(request)
    span = rng.choice([0, 0, 10, 60])
    arrivals = sorted(((rng.randint(0, span), request) for request in chosen), key=lambda arrival: arrival[0])
    block_size = rng.choice(BLOCK_SIZES)
    least = -(-(MAX_PROMPT_TOKENS + MAX_NEW_TOKENS) // block_size) + 1
    return Case(
        arrivals=tuple((step, replace(request, priority=rng.choice([0, 0, 1]))) for step, request in arrivals),
        block_size=block_size,
        num_blocks=rng.choice([least, rng.randint(least, 3 * least), rng.randint(least, 20 * least), 2 * len(chosen) * least]),
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=max_num_seqs,
        num_threads=rng.choice(NUM_THREADS),
        enable_prefix_caching=rng.random() < 0.6,
        speculation=rng.choice(["none", "ngram"]),
    )


def properties(case: Case, outcome: Outcome) -> Counter[str]:
    """Name what a case put to the test, for a table."""
    sequences = outcome.max_sequences_of_step
    size = next(label for label, least in (("64-256", 64), ("16-63", 16), ("2-15", 2), ("1", 0)) if sequences >= least)
    said = {
        f"batch of {size}": True,
        "in chunks": outcome.num_chunks > 0,
        "preempted": outcome.num_preemptions > 0,
        "prefix hit": outcome.num_cached_tokens > 0,
        "guesses accepted": outcome.num_accepted_guesses > 0,
        f"blocks of {case.block_size}": True,
        f"{case.num_threads} threads": True,
    }
    return Counter(name for name, is_so in said.items() if is_so)
