"""The engine: requests in, one step at a time, outputs out.

Synchronous and single-threaded; whoever calls it owns the thread. ``step`` is the whole of it: schedule, run,
postprocess.
"""

import secrets
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from attendant_engine.admission.line import Line
from attendant_engine.block_manager import BlockManager
from attendant_engine.cache.tensors import CacheTensors
from attendant_engine.config import EngineConfig
from attendant_engine.decoding.speculation import Speculator
from attendant_engine.description import describe_model
from attendant_engine.errors import DeadlineError, InvalidRequestError
from attendant_engine.faults import FaultyTrunk, fault_load, parse_faults
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.sharding import shard_config
from attendant_engine.outputs import aborted_outputs, failed_outputs, final_output, finish_reason, pooled_output, token_output
from attendant_engine.parallel.loading import load_planned_model
from attendant_engine.parallel.trunk import is_native
from attendant_engine.plan import cache_dtype, plan_model
from attendant_engine.runner import Runner
from attendant_engine.scheduling.deadlines import CANNOT_BE_MET, DEADLINE_PASSED, Deadlines
from attendant_engine.scheduling.scheduler import Scheduler
from attendant_engine.scheduling.usage import UsageLedger
from attendant_engine.self_check.check import SelfCheck, check_engine
from attendant_engine.sequence import (
    GenerationState,
    PoolingState,
    ScheduledStep,
    Sequence,
    SequenceResult,
    SequenceStatus,
    StepResult,
)
from attendant_engine.stats import LoadStats, StepOutput, StepStats
from attendant_engine.types import (
    EngineOutput,
    EngineRequest,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    OutputError,
    PoolingRequest,
)
from attendant_engine.validation import RequestValidator
from attendant_engine.warm_up import warm_up


def load_engine(path: Path, name: str, config: EngineConfig) -> "Engine":
    """Load the checkpoint in ``path`` to be served as ``name``: plan, read the weights, allocate the cache, warm up, check itself.

    Raises ``CheckpointError`` for the checkpoint, wrong answers included, and ``InvalidRequestError`` for the configuration.
    """
    started_s = time.perf_counter()
    faults = parse_faults(config.faults)
    fault_load(faults)
    plan = plan_model(path, config)
    planned_s = time.perf_counter()
    model = load_planned_model(path, plan)
    has_same_bits = is_native(model.trunk)
    faulty = FaultyTrunk(model.trunk, faults) if faults else None
    if faulty is not None:
        model = replace(model, trunk=faulty)
    loaded_s = time.perf_counter()
    num_torch_threads = 1 if plan.config.attention_backend == "native" else plan.config.num_torch_threads
    if num_torch_threads is not None:
        torch.set_num_threads(num_torch_threads)  # of this thread, which is the one that steps
    try:
        engine = Engine(model, describe_model(model, plan, path=path, name=name), plan.config, num_blocks=plan.num_blocks)
        full_step_s = warm_up(engine, max_batch_tokens=plan.max_batch_tokens)
        warm_s = time.perf_counter()
        engine.self_check = check_engine(engine, path, classes=plan.number_classes, has_same_bits=has_same_bits)
    except BaseException:
        if model.peers is not None:
            model.peers.close()
        raise
    engine.forget_work()
    if faulty is not None:
        faulty.is_armed = True
    engine.load_stats = LoadStats(
        phase_s={
            "config": planned_s - started_s,
            "weights": loaded_s - planned_s,
            "warmup": warm_s - loaded_s,
            "self_check": time.perf_counter() - warm_s,
        },
        weight_bytes=model.load_stats.weight_bytes,
        kv_cache_bytes=plan.kv_cache_bytes,
        num_blocks=plan.num_blocks,
        full_step_s=full_step_s,
        block_size=plan.config.block_size,
    )
    return engine


class Engine:
    """One model and its requests.

    ``config`` has every choice resolved; ``num_blocks`` is the cache's size, 0 for a model without a language-model
    head. ``load_stats`` says how long loading took and what it planned, ``self_check`` what its answers were found to be.
    """

    def __init__(
        self, model: LoadedModel, info: ModelInfo, config: EngineConfig, *, num_blocks: int, load_stats: LoadStats | None = None
    ) -> None:
        assert config.max_batch_tokens is not None and config.max_num_seqs is not None, "the configuration is not resolved"
        self.info = info
        self.load_stats = load_stats or LoadStats()
        self.self_check: SelfCheck | None = None
        self._blocks: BlockManager | None = None
        cache: CacheTensors | None = None
        if num_blocks > 0:
            self._blocks = BlockManager(
                num_blocks=num_blocks, block_size=config.block_size, enable_prefix_caching=config.enable_prefix_caching
            )
            cache = CacheTensors(
                shard_config(model.config, config.tensor_parallel),
                num_blocks=num_blocks,
                block_size=config.block_size,
                dtype=cache_dtype(config, model.dtype),
                device=model.device,
                attention_backend=config.attention_backend,
                peers=model.peers,
            )
        self.peers = model.peers
        self._cache_bytes = 0 if cache is None else cache.num_bytes
        self._speculator = Speculator() if config.speculation == "ngram" else None
        self._usage = UsageLedger()
        self._scheduler = Scheduler(
            self._blocks,
            speculator=self._speculator,
            max_batch_tokens=config.max_batch_tokens,
            max_num_seqs=config.max_num_seqs,
            usage=self._usage,
        )
        self.line = Line(self._scheduler, config, num_blocks=num_blocks, max_model_len=info.max_model_len)
        self._runner = Runner(model, cache, block_size=config.block_size)
        self._validator = RequestValidator(
            model, max_model_len=info.max_model_len, max_cache_tokens=0 if self._blocks is None else self._blocks.max_tokens
        )
        self._requests: dict[str, GenerationState | PoolingState] = {}
        self._deadlines = Deadlines()
        self._ended_between_steps: list[EngineOutput] = []
        self._arrivals = count()
        self._step_indices = count()
        self._num_accepted_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute or report anything."""
        return bool(self._ended_between_steps) or self._scheduler.has_work

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def add_request(self, request: EngineRequest, *, is_let_in: bool = False) -> None:
        """Queue ``request``; ``is_let_in``: the door has been asked already.

        Raises ``InvalidRequestError`` and its kinds for what cannot be served, ``QueueFullError`` for what cannot be served now,
        ``DeadlineError`` for what is too late.
        """
        if request.deadline_s is not None and request.deadline_s <= time.monotonic():
            raise DeadlineError(DEADLINE_PASSED.message)
        if request.request_id in self._requests:
            raise InvalidRequestError(f"A request {request.request_id!r} is in flight already; choose another id.", param="request_id")
        state = self._new_generation(request) if isinstance(request, GenerationRequest) else self._new_pooling(request)
        refusal = None if is_let_in else self.line.door.refusal(request, self.line.backlog, time.monotonic())
        if refusal is not None:
            raise refusal
        self._scheduler.add(state)
        self._requests[request.request_id] = state
        self._deadlines.add(state)

    def abort(self, request_id: str) -> None:
        """End a request now; its blocks are free on return and the next step reports it. An unknown id is no error: it has ended."""
        state = self._requests.get(request_id)
        if state is not None:
            self._end(state, aborted_outputs(state, time.monotonic()))

    def step(self) -> StepOutput:
        """Advance every sequence that has its turn by one token or one chunk of its prompt."""
        started_s = time.monotonic()
        self._end_expired(started_s)
        scheduled = self._scheduler.schedule(started_s)
        scheduled_s = time.monotonic()
        result = self._runner.run(scheduled)
        if self._speculator is not None and scheduled.is_decode:
            self._speculator.note_step(time.monotonic() - scheduled_s, len(scheduled.sequences), scheduled.num_draft_tokens)
        outputs = self._postprocess(result)
        changes = {} if self._blocks is None else self._blocks.pool.take_changes()
        return StepOutput(outputs=outputs, stats=self._stats(scheduled, outputs, started_s), prefix_changes=changes)

    def abort_all(self) -> tuple[EngineOutput, ...]:
        """End every request and return what the next step would have reported."""
        for request_id in list(self._requests):
            self.abort(request_id)
        return self._postprocess(StepResult())

    def fail_all(self, error: OutputError) -> tuple[EngineOutput, ...]:
        """End every request with ``error``, for a caller whose ``step`` raised; the engine is of no use afterwards."""
        now_s = time.monotonic()
        outputs = self._ended_between_steps
        for state in self._requests.values():
            outputs += failed_outputs(state, now_s, error)
        self._requests.clear()
        self._ended_between_steps = []
        return tuple(outputs)

    def forget_work(self) -> None:
        """Be as if nothing had been computed yet: no cached prompt, no step counted, no pace known; first steps are slow ones."""
        self.reset_prefix_cache()
        self._step_indices = count()
        self.line.forget_pace()

    def reset_prefix_cache(self) -> None:
        """Forget every prompt that no running sequence holds."""
        if self._blocks is not None:
            self._blocks.pool.clear_cached()

    def check(self) -> None:
        """See that the engine could take a step, for a caller who has none to ask for. Raises ``ReplicaFaultError``."""
        if self.peers is not None:
            self.peers.check()

    def close(self) -> None:
        """End the processes that share the model, if any; the engine is of no use afterwards."""
        if self.peers is not None:
            self.peers.close()

    def check_integrity(self) -> None:
        """Assert that requests, queues and blocks agree: free + cached + held = all."""
        self._scheduler.check_integrity()
        live = [s for state in self._requests.values() if isinstance(state, GenerationState) for s in state.unfinished]
        queued = [sequence for sequence in live if sequence.status is not SequenceStatus.UNFORKED]
        num_pooling = sum(1 for state in self._requests.values() if isinstance(state, PoolingState))
        assert len(queued) + num_pooling == self._scheduler.num_running + self._scheduler.num_waiting, "a sequence was lost"

    def _end(self, state: GenerationState | PoolingState, outputs: list[EngineOutput]) -> None:
        """Forget a request and free its blocks; the next step reports ``outputs`` of it."""
        del self._requests[state.request_id]
        self._ended_between_steps += outputs
        if isinstance(state, PoolingState):
            self._scheduler.finish_pooling(state)
        else:
            for sequence in state.unfinished:
                self._scheduler.finish(sequence)

    def _end_expired(self, now_s: float) -> None:
        for state in self._deadlines.pop_due(now_s, self._requests):
            self._end(state, failed_outputs(state, now_s, DEADLINE_PASSED))
        while (head := self.line.next_hopeless(now_s)) is not None:
            self._end(head.state, failed_outputs(head.state, now_s, CANNOT_BE_MET))

    def _new_generation(self, request: GenerationRequest) -> GenerationState:
        params = request.params
        eos_ids = self.info.eos_token_ids
        state = GenerationState(
            request=request,
            arrival=next(self._arrivals),
            arrival_s=time.monotonic(),
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            max_tokens=self._validator.max_new_tokens(request),
            stop_ids=frozenset(params.stop_token_ids if params.ignore_eos else (*params.stop_token_ids, *eos_ids)),
            masked_ids=tuple({*params.stop_token_ids, *eos_ids}) if params.min_tokens > 0 else (),
        )
        state.sequences.extend(Sequence(state, request.index + place) for place in range(request.n))
        if params.prompt_logprobs is not None and params.prompt_logprobs_start == 0:
            state.prompt_logprobs.append(None)  # nothing predicts the first token
        return state

    def _new_pooling(self, request: PoolingRequest) -> PoolingState:
        self._validator.check_pooling(request)
        return PoolingState(request=request, arrival=next(self._arrivals), arrival_s=time.monotonic())

    def _postprocess(self, result: StepResult) -> tuple[EngineOutput, ...]:
        outputs = self._ended_between_steps
        self._ended_between_steps = []
        self._num_accepted_tokens = 0
        now_s = time.monotonic()
        for sequence_result in result.sequences:
            self._advance(sequence_result, now_s, outputs)
        for pooling_result in result.pooled:
            del self._requests[pooling_result.state.request_id]
            outputs.append(pooled_output(pooling_result))
        return tuple(outputs)

    def _advance(self, result: SequenceResult, now_s: float, outputs: list[EngineOutput]) -> None:
        """Apply what one sequence's computation found to it, and to the siblings that shared it."""
        scheduled = result.scheduled
        state = scheduled.sequence.state
        if scheduled.sequence.status is SequenceStatus.FINISHED:
            return  # its request failed with a sibling of this step
        if result.error is not None:
            self._fail(state, result.error, now_s, outputs)
            return
        advance = self._advance_drafted if scheduled.draft_ids else self._advance_plain
        reason = advance(result, now_s, outputs)
        if reason is not None and not state.unfinished:
            del self._requests[state.request_id]

    def _advance_plain(self, result: SequenceResult, now_s: float, outputs: list[EngineOutput]) -> FinishReason | None:
        """Count what was computed, add at most one token to each sampler; return the last reason to end one."""
        scheduled = result.scheduled
        state = scheduled.sequence.state
        if result.prompt_logprobs:
            state.prompt_logprobs.extend(result.prompt_logprobs)
        self._scheduler.commit(scheduled)
        last_reason: FinishReason | None = None
        for token in result.sampled:
            token.sequence.append(token.token_id, now_s)
            reason = finish_reason(token.sequence)
            outputs.append(token_output((token,), reason, now_s))
            self._usage.add_generated(state.request.tenant, 1)
            if reason is not None:
                self.line.note_output(token.sequence)
                self._scheduler.finish(token.sequence)
                last_reason = reason
        if state.max_tokens == 0 and scheduled.sequence.num_uncomputed_tokens == 0:
            for sequence in state.unfinished:
                outputs.append(final_output(sequence, "length", now_s))
                self._scheduler.finish(sequence)
                last_reason = "length"
        return last_reason

    def _advance_drafted(self, result: SequenceResult, now_s: float, outputs: list[EngineOutput]) -> FinishReason | None:
        """Add the tokens that turned out as guessed and the one behind them, up to where the sequence ends; return why it does."""
        assert self._speculator is not None
        sequence = result.scheduled.sequence
        if result.is_tainted:
            self._speculator.give_up(sequence)
            self._runner.zero_blocks(self._scheduler.recompute(sequence))
            return None
        self._speculator.note_accepted(sequence, len(result.scheduled.draft_ids), len(result.sampled) - 1)
        reason: FinishReason | None = None
        num_tokens = 0
        for token in result.sampled:
            sequence.append(token.token_id, now_s)
            num_tokens += 1
            reason = finish_reason(sequence)
            if reason is not None:
                break
        outputs.append(token_output(result.sampled[:num_tokens], reason, now_s))
        self._usage.add_generated(sequence.tenant, num_tokens)
        self._num_accepted_tokens += num_tokens - 1
        self._scheduler.commit_drafted(sequence, num_tokens)
        if reason is not None:
            self.line.note_output(sequence)
            self._scheduler.finish(sequence)
        return reason

    def _fail(self, state: GenerationState, error: OutputError, now_s: float, outputs: list[EngineOutput]) -> None:
        """End every sequence of a request at fault, and erase what only it held in the cache."""
        for sequence in state.unfinished:
            self._runner.zero_blocks(self._scheduler.discard(sequence))
            outputs.append(final_output(sequence, "error", now_s, error))
        del self._requests[state.request_id]

    def _stats(self, scheduled: ScheduledStep, outputs: tuple[EngineOutput, ...], started_s: float) -> StepStats:
        usage = self._usage.take()
        ended_s = time.monotonic()
        self.line.note_step(scheduled, started_s, ended_s, usage)
        return StepStats(
            step_index=next(self._step_indices),
            step_s=ended_s - started_s,
            num_sequences=len(scheduled.sequences) + len(scheduled.pooled),
            num_tokens=scheduled.num_tokens + sum([state.num_tokens for state in scheduled.pooled]),
            num_prompt_tokens=sum([tenant.num_prompt_tokens for tenant in usage]),
            num_cached_prompt_tokens=sum([tenant.num_cached_prompt_tokens for tenant in usage]),
            num_generated_tokens=sum([tenant.num_generated_tokens for tenant in usage]),
            num_draft_tokens=scheduled.num_draft_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
            num_preemptions=scheduled.num_preemptions,
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            kv_cache_usage_ratio=0.0 if self._blocks is None else self._blocks.pool.num_held / self._blocks.pool.num_blocks,
            kv_cache_bytes=self._cache_bytes,
            usage=usage,
        )
