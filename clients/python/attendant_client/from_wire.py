"""gRPC messages become results."""

from collections.abc import Iterable

from attendant.v1 import (
    chat_pb2,
    classification_pb2,
    common_pb2,
    completion_pb2,
    embedding_pb2,
    few_shot_pb2,
    models_pb2,
    tokenization_pb2,
)
from attendant_client import results

_FINISH: dict[int, results.FinishReason] = {common_pb2.FINISH_REASON_STOP: "stop", common_pb2.FINISH_REASON_LENGTH: "length"}


def completion_answer(message: completion_pb2.CompleteResponse) -> results.CompletionAnswer:
    """Read a finished completion."""
    return results.CompletionAnswer(
        id=message.id,
        model=message.model,
        completions=tuple(completion(item) for item in message.completions),
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
        timing=_timing(message.timing),
    )


def completion(message: completion_pb2.Completion) -> results.Completion:
    """Read one output, or a piece of one."""
    return results.Completion(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH.get(message.finish_reason),
        stop_text=message.stop_text if message.HasField("stop_text") else None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        logprobs=_positions(message.logprobs),
        prompt_logprobs=_positions(message.prompt_logprobs),
    )


def completion_piece(message: completion_pb2.StreamCompleteResponse) -> results.Completion | results.StreamSummary | None:
    """Read one message of a stream: a piece, its end, or (of a newer server) neither."""
    if message.HasField("delta"):
        return completion(message.delta)
    return _summary(message) if message.HasField("receipt") else None


def chat_answer(message: chat_pb2.ChatResponse) -> results.ChatAnswer:
    """Read a finished turn."""
    return results.ChatAnswer(
        id=message.id,
        model=message.model,
        choices=tuple(_chat_choice(choice) for choice in message.choices),
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
        timing=_timing(message.timing),
    )


def chat_piece(message: chat_pb2.StreamChatResponse) -> results.ChatChoice | results.StreamSummary | None:
    """Read one message of a stream: a piece, its end, or (of a newer server) neither."""
    if message.HasField("delta"):
        return _chat_choice(message.delta)
    return _summary(message) if message.HasField("receipt") else None


def embedding_answer(message: embedding_pb2.EmbedResponse) -> results.EmbeddingAnswer:
    """Read vectors."""
    return results.EmbeddingAnswer(
        id=message.id,
        model=message.model,
        vectors=tuple(tuple(item.values) for item in message.embeddings),
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
    )


def classification_answer(message: classification_pb2.ClassifyResponse) -> results.ClassificationAnswer:
    """Read judgements."""
    return results.ClassificationAnswer(
        id=message.id,
        model=message.model,
        classifications=tuple(
            results.Classification(
                index=item.index, label=item.label, score=item.score, probs={prob.label: prob.probability for prob in item.probs}
            )
            for item in message.classifications
        ),
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
    )


def few_shot_answer(message: few_shot_pb2.FewShotResponse) -> results.FewShotAnswer:
    """Read answers."""
    return results.FewShotAnswer(
        id=message.id,
        model=message.model,
        answers=tuple(
            results.FewShotResult(
                index=item.index,
                text=item.text,
                label=item.label if item.HasField("label") else None,
                score=item.score if item.HasField("score") else None,
                probs={prob.label: prob.probability for prob in item.probs},
                logprobs={prob.label: prob.logprob for prob in item.probs},
            )
            for item in message.answers
        ),
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
    )


def tokens(message: tokenization_pb2.TokenizeResponse) -> results.Tokens:
    """Read the tokens of a text."""
    return results.Tokens(token_ids=tuple(message.token_ids), tokens=tuple(message.tokens), max_model_len=message.max_model_len)


def model(message: models_pb2.Model) -> results.Model:
    """Read a served model."""
    return results.Model(
        id=message.id,
        kind=message.kind,
        tasks=tuple(message.tasks),
        family=message.family,
        max_model_len=message.max_model_len,
        vocab_size=message.vocab_size,
        digest=message.digest,
        dtype=message.dtype,
        device_kind=message.device_kind,
        quantization=message.quantization,
        kernels=message.kernels,
        labels=tuple(message.labels),
        embedding_size=message.embedding_size if message.HasField("embedding_size") else None,
        is_ready=message.ready,
        status=message.status,
        num_replicas=message.num_replicas,
        adapters=tuple(message.adapters),
        parent=message.parent or None,
        state=message.state,
    )


def _chat_choice(message: chat_pb2.ChatChoice) -> results.ChatChoice:
    return results.ChatChoice(
        index=message.index,
        content=message.message.content,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH.get(message.finish_reason),
        logprobs=_positions(message.logprobs),
    )


def _summary(message: completion_pb2.StreamCompleteResponse | chat_pb2.StreamChatResponse) -> results.StreamSummary:
    return results.StreamSummary(
        id=message.id,
        model=message.model,
        usage=_usage(message.usage),
        receipt=_receipt(message.receipt),
        timing=_timing(message.timing),
    )


def _positions(messages: Iterable[common_pb2.PositionLogprobs]) -> tuple[results.PositionLogprobs, ...]:
    return tuple(
        results.PositionLogprobs(
            token_id=message.token.token_id,
            token=message.token.token,
            logprob=message.token.logprob if message.has_logprob else None,
            top=tuple(results.TokenLogprob(token_id=top.token_id, token=top.token, logprob=top.logprob) for top in message.top),
            text_offset=message.text_offset,
        )
        for message in messages
    )


def _usage(message: common_pb2.Usage) -> results.Usage:
    return results.Usage(
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        completion_tokens=message.completion_tokens,
        total_tokens=message.total_tokens,
    )


def _receipt(message: common_pb2.Receipt) -> results.Receipt:
    return results.Receipt(
        model_digest=message.model_digest,
        engine_version=message.engine_version,
        dtype=message.dtype,
        device_kind=message.device_kind,
        quantization=message.quantization,
        kernels=message.kernels,
        seed=message.seed,
    )


def _timing(message: common_pb2.Timing) -> results.Timing:
    return results.Timing(queue_s=message.queue_s, prefill_s=message.prefill_s, decode_s=message.decode_s, total_s=message.total_s)
