"""Engine types to and from the link's messages, by hand and both ways; nothing here judges a value.

What the wire leaves out comes back as the engine's own default, so that a round trip gives an equal object. A deadline
travels as the seconds that are left, since the clocks of two machines have nothing to do with one another.
"""

import time
from collections.abc import Iterable
from typing import cast

import numpy as np

from attendant.link.v1 import link_pb2 as pb
from attendant_engine.types import (
    AdapterInfo,
    EngineOutput,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    ModelKind,
    OutputError,
    PooledOutput,
    PoolingMode,
    PoolingRequest,
    SamplingParams,
    SequenceOutput,
    Task,
    TokenLogprobs,
)


def generation_to_proto(request: GenerationRequest) -> pb.Generate:
    """Return the message for a generation request."""
    return pb.Generate(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=_sampling_to_proto(request.params),
        n=request.n,
        priority=request.priority,
        cache_salt=request.cache_salt,
        index=request.index,
        output_token_ids=request.output_token_ids,
        timeout_s=_seconds_left(request.deadline_s),
        tenant=request.tenant,
        tenant_weight=request.tenant_weight,
    )


def generation_from_proto(message: pb.Generate) -> GenerationRequest:
    """Return the generation request of a message."""
    return GenerationRequest(
        request_id=message.request_id,
        prompt_token_ids=tuple(message.prompt_token_ids),
        params=_sampling_from_proto(message.params),
        n=message.n,
        priority=message.priority,
        cache_salt=message.cache_salt,
        index=message.index,
        output_token_ids=tuple(message.output_token_ids),
        deadline_s=_deadline_s(message),
        tenant=message.tenant,
        tenant_weight=message.tenant_weight if message.HasField("tenant_weight") else 1.0,
    )


def _seconds_left(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else deadline_s - time.monotonic()


def _deadline_s(message: pb.Generate | pb.Pool) -> float | None:
    return time.monotonic() + message.timeout_s if message.HasField("timeout_s") else None


def _sampling_to_proto(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        bias_token_ids=[token_id for token_id, _ in params.logit_bias],
        bias_values=[bias for _, bias in params.logit_bias],
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        seed=params.seed,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        prompt_logprobs_start=params.prompt_logprobs_start,
    )


def _sampling_from_proto(message: pb.Sampling) -> SamplingParams:
    return SamplingParams(
        max_tokens=message.max_tokens,
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(zip(message.bias_token_ids, message.bias_values, strict=True)),
        min_tokens=message.min_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        seed=message.seed if message.HasField("seed") else None,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        prompt_logprobs_start=message.prompt_logprobs_start,
    )


def pooling_to_proto(request: PoolingRequest) -> pb.Pool:
    """Return the message for a pooling request."""
    return pb.Pool(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        task=request.task,
        token_type_ids=request.token_type_ids or (),
        pooling=request.pooling,
        normalize=request.normalize,
        priority=request.priority,
        adapter=request.adapter,
        timeout_s=_seconds_left(request.deadline_s),
        tenant=request.tenant,
        tenant_weight=request.tenant_weight,
    )


def pooling_from_proto(message: pb.Pool) -> PoolingRequest:
    """Return the pooling request of a message."""
    return PoolingRequest(
        request_id=message.request_id,
        prompt_token_ids=tuple(message.prompt_token_ids),
        task="classification" if message.task == "classification" else "embedding",
        token_type_ids=tuple(message.token_type_ids) or None,
        pooling=cast(PoolingMode, message.pooling) if message.HasField("pooling") else None,
        normalize=message.normalize if message.HasField("normalize") else None,
        priority=message.priority,
        adapter=message.adapter if message.HasField("adapter") else None,
        deadline_s=_deadline_s(message),
        tenant=message.tenant,
        tenant_weight=message.tenant_weight if message.HasField("tenant_weight") else 1.0,
    )


def model_to_proto(info: ModelInfo) -> pb.Model:
    """Return the message for a model's description."""
    return pb.Model(
        name=info.name,
        path=info.path,
        family=info.family,
        kind=info.kind,
        tasks=info.tasks,
        digest=info.digest,
        engine_version=info.engine_version,
        dtype=info.dtype,
        device_kind=info.device_kind,
        max_model_len=info.max_model_len,
        vocab_size=info.vocab_size,
        num_parameters=info.num_parameters,
        eos_token_ids=info.eos_token_ids,
        embedding_size=info.embedding_size,
        pooling=info.pooling,
        normalize=info.normalize,
        labels=info.labels,
        multi_label=info.multi_label,
        uses_token_types=info.uses_token_types,
        quantization=info.quantization,
        kernels=info.kernels,
        adapters=[_adapter_to_proto(adapter) for adapter in info.adapters],
    )


def model_from_proto(message: pb.Model) -> ModelInfo:
    """Return the description of a message."""
    return ModelInfo(
        name=message.name,
        path=message.path,
        family=message.family,
        kind=cast(ModelKind, message.kind),
        tasks=cast(tuple[Task, ...], tuple(message.tasks)),
        digest=message.digest,
        engine_version=message.engine_version,
        dtype=message.dtype,
        device_kind=message.device_kind,
        max_model_len=message.max_model_len,
        vocab_size=message.vocab_size,
        num_parameters=message.num_parameters,
        eos_token_ids=tuple(message.eos_token_ids),
        embedding_size=message.embedding_size if message.HasField("embedding_size") else None,
        pooling=cast(PoolingMode, message.pooling) if message.HasField("pooling") else None,
        normalize=message.normalize,
        labels=tuple(message.labels),
        multi_label=message.multi_label,
        uses_token_types=message.uses_token_types,
        quantization=message.quantization,
        kernels=message.kernels,
        adapters=tuple(map(_adapter_from_proto, message.adapters)),
    )


def _adapter_to_proto(info: AdapterInfo) -> pb.Adapter:
    return pb.Adapter(
        name=info.name,
        tasks=info.tasks,
        digest=info.digest,
        rank=info.rank,
        num_parameters=info.num_parameters,
        labels=info.labels,
        multi_label=info.multi_label,
    )


def _adapter_from_proto(message: pb.Adapter) -> AdapterInfo:
    return AdapterInfo(
        name=message.name,
        tasks=cast(tuple[Task, ...], tuple(message.tasks)),
        digest=message.digest,
        rank=message.rank,
        num_parameters=message.num_parameters,
        labels=tuple(message.labels),
        multi_label=message.multi_label,
    )


def step_to_proto(sequence_number: int, outputs: Iterable[EngineOutput]) -> pb.Step:
    """Return one step message for all ``outputs``; the two kinds keep their own order."""
    step = pb.Step(sequence_number=sequence_number)
    for output in outputs:
        if isinstance(output, SequenceOutput):
            step.sequences.append(_sequence_to_proto(output))
        else:
            step.pooled.append(_pooled_to_proto(output))
    return step


def step_from_proto(step: pb.Step) -> list[EngineOutput]:
    """Return the outputs of a step message, sequences first."""
    return [*map(_sequence_from_proto, step.sequences), *map(_pooled_from_proto, step.pooled)]


def _sequence_to_proto(output: SequenceOutput) -> pb.SequenceOutput:
    return pb.SequenceOutput(
        request_id=output.request_id,
        index=output.index,
        token_ids=output.token_ids,
        logprobs=None if output.logprobs is None else _logprobs_to_proto(output.logprobs),
        prompt_logprobs=None if output.prompt_logprobs is None else _logprobs_to_proto(output.prompt_logprobs),
        finish_reason=output.finish_reason,
        stop_token_id=output.stop_token_id,
        num_cached_tokens=output.num_cached_tokens,
        seed=output.seed,
        queue_s=output.queue_s,
        prefill_s=output.prefill_s,
        decode_s=output.decode_s,
        error=_error_to_proto(output.error),
    )


def _sequence_from_proto(message: pb.SequenceOutput) -> SequenceOutput:
    logprobs = _logprobs_from_proto(message.logprobs) if message.HasField("logprobs") else None
    return SequenceOutput(
        request_id=message.request_id,
        index=message.index,
        token_ids=tuple(message.token_ids),
        logprobs=None if logprobs is None else tuple(position for position in logprobs if position is not None),
        prompt_logprobs=_logprobs_from_proto(message.prompt_logprobs) if message.HasField("prompt_logprobs") else None,
        finish_reason=cast(FinishReason, message.finish_reason) if message.HasField("finish_reason") else None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        num_cached_tokens=message.num_cached_tokens,
        seed=message.seed if message.HasField("seed") else None,
        queue_s=message.queue_s,
        prefill_s=message.prefill_s,
        decode_s=message.decode_s,
        error=_error_from_proto(message.error) if message.HasField("error") else None,
    )


def _pooled_to_proto(output: PooledOutput) -> pb.PooledOutput:
    return pb.PooledOutput(
        request_id=output.request_id,
        values=np.asarray(output.values, dtype="<f4").tobytes(),
        num_prompt_tokens=output.num_prompt_tokens,
        queue_s=output.queue_s,
        error=_error_to_proto(output.error),
    )


def _pooled_from_proto(message: pb.PooledOutput) -> PooledOutput:
    return PooledOutput(
        request_id=message.request_id,
        values=tuple(np.frombuffer(message.values, dtype="<f4").tolist()),
        num_prompt_tokens=message.num_prompt_tokens,
        queue_s=message.queue_s,
        error=_error_from_proto(message.error) if message.HasField("error") else None,
    )


def _logprobs_to_proto(positions: Iterable[TokenLogprobs | None]) -> pb.LogprobsList:
    return pb.LogprobsList(
        positions=[
            pb.PositionLogprobs(missing=True)
            if position is None
            else pb.PositionLogprobs(
                token=pb.Logprob(token_id=position.token_id, logprob=position.logprob),
                rank=position.rank,
                top=[pb.Logprob(token_id=token_id, logprob=logprob) for token_id, logprob in position.top],
            )
            for position in positions
        ]
    )


def _logprobs_from_proto(message: pb.LogprobsList) -> tuple[TokenLogprobs | None, ...]:
    return tuple(
        None
        if position.missing
        else TokenLogprobs(
            token_id=position.token.token_id,
            logprob=position.token.logprob,
            rank=position.rank,
            top=tuple((best.token_id, best.logprob) for best in position.top),
        )
        for position in message.positions
    )


def _error_to_proto(error: OutputError | None) -> pb.Error | None:
    if error is None:
        return None
    return pb.Error(code=error.code, message=error.message, param=error.param, retry_after_s=error.retry_after_s)


def _error_from_proto(message: pb.Error) -> OutputError:
    return OutputError(
        code=message.code,
        message=message.message,
        param=message.param if message.HasField("param") else None,
        retry_after_s=message.retry_after_s if message.HasField("retry_after_s") else None,
    )
