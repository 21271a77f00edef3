"""The tasks' canonical results become gRPC messages. Nothing here can fail on a result that the gateway made."""

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
from attendant_server.gateway import results

_FINISH: dict[str | None, common_pb2.FinishReason.ValueType] = {
    None: common_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": common_pb2.FINISH_REASON_STOP,
    "length": common_pb2.FINISH_REASON_LENGTH,
}


def completion(result: results.CompletionResult, request_id: str) -> completion_pb2.CompleteResponse:
    """Write a finished completion."""
    return completion_pb2.CompleteResponse(
        id=request_id,
        model=result.model,
        completions=[_completion(choice) for choice in result.choices],
        usage=_usage(result.usage),
        receipt=_receipt(result.receipt),
        timing=_timing(result.timing),
    )


def completion_piece(
    item: results.CompletionDelta | results.StreamEnd, request_id: str, model: str
) -> completion_pb2.StreamCompleteResponse:
    """Write one item of a completion's stream."""
    message = completion_pb2.StreamCompleteResponse(id=request_id, model=model, usage=_usage(item.usage))
    if isinstance(item, results.CompletionDelta):
        message.delta.CopyFrom(_completion(item))
        if item.resume_token:
            message.resume_token = item.resume_token
    else:
        message.receipt.CopyFrom(_receipt(item.receipt))
        message.timing.CopyFrom(_timing(item.timing))
    return message


def chat(result: results.CompletionResult, request_id: str) -> chat_pb2.ChatResponse:
    """Write a finished turn."""
    return chat_pb2.ChatResponse(
        id=request_id,
        model=result.model,
        choices=[_chat_choice(choice) for choice in result.choices],
        usage=_usage(result.usage),
        receipt=_receipt(result.receipt),
        timing=_timing(result.timing),
    )


def chat_piece(item: results.CompletionDelta | results.StreamEnd, request_id: str, model: str) -> chat_pb2.StreamChatResponse:
    """Write one item of a turn's stream."""
    message = chat_pb2.StreamChatResponse(id=request_id, model=model, usage=_usage(item.usage))
    if isinstance(item, results.CompletionDelta):
        message.delta.CopyFrom(_chat_choice(item))
        if item.resume_token:
            message.resume_token = item.resume_token
    else:
        message.receipt.CopyFrom(_receipt(item.receipt))
        message.timing.CopyFrom(_timing(item.timing))
    return message


def embed(result: results.EmbedResult, request_id: str) -> embedding_pb2.EmbedResponse:
    """Write vectors."""
    return embedding_pb2.EmbedResponse(
        id=request_id,
        model=result.model,
        embeddings=[embedding_pb2.Embedding(index=index, values=vector) for index, vector in enumerate(result.vectors)],
        usage=_usage(result.usage),
        receipt=_receipt(result.receipt),
    )


def classify(result: results.ClassifyResult, request_id: str) -> classification_pb2.ClassifyResponse:
    """Write judgements."""
    return classification_pb2.ClassifyResponse(
        id=request_id,
        model=result.model,
        classifications=[
            classification_pb2.Classification(
                index=item.index,
                label=item.label,
                score=item.score,
                probs=[classification_pb2.LabelProbability(label=label, probability=p) for label, p in item.probs],
            )
            for item in result.data
        ],
        usage=_usage(result.usage),
        receipt=_receipt(result.receipt),
    )


def few_shot(result: results.FewShotResult, request_id: str) -> few_shot_pb2.FewShotResponse:
    """Write answers."""
    return few_shot_pb2.FewShotResponse(
        id=request_id,
        model=result.model,
        answers=[
            few_shot_pb2.FewShotAnswer(
                index=answer.index,
                text=answer.text,
                label=answer.label,
                score=answer.score,
                probs=[few_shot_pb2.FewShotProbability(label=label, probability=p, logprob=logprob) for label, p, logprob in answer.probs],
            )
            for answer in result.data
        ],
        usage=_usage(result.usage),
        receipt=_receipt(result.receipt),
    )


def tokenize(result: results.TokenizeResult) -> tokenization_pb2.TokenizeResponse:
    """Write the tokens of a text."""
    return tokenization_pb2.TokenizeResponse(token_ids=result.token_ids, tokens=result.tokens, max_model_len=result.max_model_len)


def model(card: results.ModelCard) -> models_pb2.Model:
    """Write a served model."""
    return models_pb2.Model(
        id=card.id,
        kind=card.kind,
        tasks=card.tasks,
        max_model_len=card.max_model_len,
        family=card.family,
        digest=card.digest,
        dtype=card.dtype,
        device_kind=card.device_kind,
        quantization=card.quantization,
        kernels=card.kernels,
        vocab_size=card.vocab_size,
        labels=card.labels,
        embedding_size=card.embedding_size,
        ready=card.is_ready,
        status=card.status,
        num_replicas=card.num_replicas,
        adapters=card.adapters,
        parent=card.parent or "",
        state=card.state,
    )


def _completion(choice: results.CompletionChoice | results.CompletionDelta) -> completion_pb2.Completion:
    return completion_pb2.Completion(
        index=choice.index,
        text=choice.text,
        token_ids=choice.token_ids,
        finish_reason=_FINISH[choice.finish_reason],
        stop_text=choice.stop_text,
        stop_token_id=choice.stop_token_id,
        logprobs=_positions(choice.logprobs),
        prompt_logprobs=_positions(choice.prompt_logprobs),
    )


def _chat_choice(choice: results.CompletionChoice | results.CompletionDelta) -> chat_pb2.ChatChoice:
    return chat_pb2.ChatChoice(
        index=choice.index,
        message=chat_pb2.ChatMessage(role="assistant", content=choice.text),
        finish_reason=_FINISH[choice.finish_reason],
        logprobs=_positions(choice.logprobs),
        token_ids=choice.token_ids,
    )


def _positions(positions: Iterable[results.PositionLogprobs] | None) -> list[common_pb2.PositionLogprobs]:
    return [
        common_pb2.PositionLogprobs(
            token=common_pb2.TokenLogprob(token_id=position.token_id, token=position.token, logprob=position.logprob or 0.0),
            has_logprob=position.logprob is not None,
            top=[common_pb2.TokenLogprob(token_id=top.token_id, token=top.token, logprob=top.logprob) for top in position.top],
            text_offset=position.text_offset,
        )
        for position in positions or ()
    ]


def _usage(usage: results.Usage) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _receipt(receipt: results.Receipt) -> common_pb2.Receipt:
    return common_pb2.Receipt(
        model_digest=receipt.model_digest,
        engine_version=receipt.engine_version,
        dtype=receipt.dtype,
        device_kind=receipt.device_kind,
        quantization=receipt.quantization,
        kernels=receipt.kernels,
        seed=receipt.seed or 0,
    )


def _timing(timing: results.Timing) -> common_pb2.Timing:
    return common_pb2.Timing(
        queue_s=timing.queue_s,
        prefill_s=timing.prefill_s,
        decode_s=timing.decode_s,
        total_s=timing.total_s,
    )
