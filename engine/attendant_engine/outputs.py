"""Turns what a step found into what crosses the engine's door, and decides when a sequence has said enough.

Stop strings are not known here: the gateway, which has the text, matches them and aborts.
"""

from attendant_engine.sequence import GenerationState, PoolingResult, PoolingState, SampledToken, Sequence
from attendant_engine.types import EngineOutput, FinishReason, OutputError, PooledOutput, SequenceOutput, TokenLogprobs

ABORTED = OutputError(code="cancelled", message="The request was cancelled.")
"""What a cancelled pooling request ends with; a generation has a finish reason for it."""


def finish_reason(sequence: Sequence) -> FinishReason | None:
    """Say why ``sequence`` ends with the token appended last, or None when it goes on."""
    state = sequence.state
    if sequence.token_ids[-1] in state.stop_ids and sequence.num_output_tokens >= state.request.params.min_tokens:
        return "stop"
    return "length" if sequence.num_output_tokens >= state.max_tokens else None


def token_output(tokens: tuple[SampledToken, ...], reason: FinishReason | None, now_s: float) -> SequenceOutput:
    """Report new tokens of one sequence, which it has appended already; ``reason`` is that of the last."""
    first = tokens[0]
    sequence = first.sequence
    token_ids = (first.token_id,) if len(tokens) == 1 else tuple([token.token_id for token in tokens])
    if reason is None and sequence.has_reported and first.logprobs is None:
        return SequenceOutput(request_id=sequence.state.request_id, index=sequence.index, token_ids=token_ids)
    return _report(
        sequence,
        now_s,
        token_ids=token_ids,
        logprobs=None if first.logprobs is None else tuple([token.logprobs for token in tokens if token.logprobs is not None]),
        reason=reason,
        stop_token_id=token_ids[-1] if reason == "stop" else None,
    )


def final_output(sequence: Sequence, reason: FinishReason, now_s: float, error: OutputError | None = None) -> SequenceOutput:
    """Report the end of a sequence that adds no token with it."""
    return _report(sequence, now_s, reason=reason, error=error)


def pooled_output(result: PoolingResult) -> PooledOutput:
    """Report a pooling request's vector, or why there is none."""
    state = result.state
    scheduled_s = state.arrival_s if state.first_scheduled_s is None else state.first_scheduled_s
    return PooledOutput(
        request_id=state.request_id,
        values=result.values,
        num_prompt_tokens=state.num_tokens,
        queue_s=scheduled_s - state.arrival_s,
        error=result.error,
    )


def aborted_outputs(state: GenerationState | PoolingState, now_s: float) -> list[EngineOutput]:
    """Report that somebody no longer wants what is left of a request; call it before its sequences are finished."""
    if isinstance(state, PoolingState):
        return [pooled_output(PoolingResult(state, error=ABORTED))]
    return [final_output(sequence, "abort", now_s) for sequence in state.unfinished]


def failed_outputs(state: GenerationState | PoolingState, now_s: float, error: OutputError) -> list[EngineOutput]:
    """Report that what is left of a request ends with ``error``; call it before its sequences are finished."""
    if isinstance(state, PoolingState):
        return [pooled_output(PoolingResult(state, error=error))]
    return [final_output(sequence, "error", now_s, error) for sequence in state.unfinished]


def _report(
    sequence: Sequence,
    now_s: float,
    *,
    token_ids: tuple[int, ...] = (),
    logprobs: tuple[TokenLogprobs, ...] | None = None,
    reason: FinishReason | None = None,
    stop_token_id: int | None = None,
    error: OutputError | None = None,
) -> SequenceOutput:
    state = sequence.state
    is_first = not sequence.has_reported
    sequence.has_reported = True
    scheduled_s = now_s if sequence.first_scheduled_s is None else sequence.first_scheduled_s
    first_token_s = now_s if sequence.first_token_s is None else sequence.first_token_s
    has_prompt = is_first and sequence.is_leader and state.request.params.prompt_logprobs is not None
    is_scored = state.next_scored_position == sequence.num_prompt_tokens  # not where it was cancelled before
    is_edge = is_first or reason is not None
    return SequenceOutput(
        request_id=state.request_id,
        index=sequence.index,
        token_ids=token_ids,
        logprobs=logprobs,
        prompt_logprobs=tuple(state.prompt_logprobs) if has_prompt and is_scored else None,
        finish_reason=reason,
        stop_token_id=stop_token_id,
        num_cached_tokens=sequence.num_cached_tokens if is_edge else 0,
        seed=state.seed if is_first else None,
        queue_s=scheduled_s - state.arrival_s if is_edge else 0.0,
        prefill_s=first_token_s - scheduled_s if is_edge else 0.0,
        decode_s=now_s - first_token_s if is_edge else 0.0,
        error=error,
    )
