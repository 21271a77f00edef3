"""The gateway's results in the JSON shapes of the HTTP API: OpenAI's where OpenAI has one, ours and vLLM's for the rest.

Plain dictionaries, since pydantic on this path would cost more than the rest of the transport. ``schemas`` describes the
same shapes for the OpenAPI document; a test holds the two together.
"""

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from attendant_server.gateway.results import (
    ClassifyResult,
    CompletionChoice,
    CompletionDelta,
    CompletionResult,
    EmbedResult,
    FewShotResult,
    ModelCard,
    Receipt,
    Timing,
    TokenizeResult,
    Usage,
)
from attendant_server.http_api import logprobs


def completion(result: CompletionResult) -> dict[str, Any]:
    """Return a ``text_completion``."""
    return _generation(result, "text_completion", [completion_choice(choice) for choice in result.choices])


def chat(result: CompletionResult) -> dict[str, Any]:
    """Return a ``chat.completion``."""
    choices = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "token_ids": choice.token_ids,
            "logprobs": logprobs.chat_shape(choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": stop_reason(choice),
        }
        for choice in result.choices
    ]
    return _generation(result, "chat.completion", choices)


def completion_choice(choice: CompletionChoice | CompletionDelta) -> dict[str, Any]:
    """Return one choice of a completion, whole or a piece of a stream."""
    data = {
        "index": choice.index,
        "text": choice.text,
        "token_ids": choice.token_ids,
        "logprobs": logprobs.completion_shape(choice.logprobs),
        "finish_reason": choice.finish_reason,
        "stop_reason": stop_reason(choice),
    }
    if choice.prompt_logprobs is not None:
        data["prompt_logprobs"] = logprobs.prompt_shape(choice.prompt_logprobs)
    return data


def stop_reason(choice: CompletionChoice | CompletionDelta) -> str | int | None:
    """The stop text or stop token that ended a choice, as vLLM reports it."""
    return choice.stop_token_id if choice.stop_text is None else choice.stop_text


def usage(spent: Usage) -> dict[str, Any]:
    """Return OpenAI's usage."""
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.total_tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
    }


def receipt(fixed: Receipt) -> dict[str, Any]:
    """Return what fixed the answer, and OpenAI's one-word form of it."""
    return {
        "system_fingerprint": "_".join(
            ("fp", fixed.model_digest[:12], fixed.engine_version, fixed.dtype, fixed.device_kind, fixed.quantization, fixed.kernels)
        ),
        "receipt": {
            "model_digest": fixed.model_digest,
            "engine_version": fixed.engine_version,
            "dtype": fixed.dtype,
            "device_kind": fixed.device_kind,
            "seed": fixed.seed,
            "quantization": fixed.quantization,
            "kernels": fixed.kernels,
        },
    }


def timing(spent: Timing) -> dict[str, float]:
    """Return where the time went, in seconds."""
    return {"queue_s": spent.queue_s, "prefill_s": spent.prefill_s, "decode_s": spent.decode_s, "total_s": spent.total_s}


def embeddings(result: EmbedResult, encoding_format: Literal["float", "base64"]) -> dict[str, Any]:
    """Return a list of ``embedding``."""
    encode = _to_base64 if encoding_format == "base64" else list
    return {
        "object": "list",
        "id": result.id,
        "model": result.model,
        "data": [{"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(result.vectors)],
        "usage": usage(result.usage),
        **receipt(result.receipt),
    }


def classification(result: ClassifyResult) -> dict[str, Any]:
    """Return one judgement an input."""
    return {
        "object": "list",
        "id": result.id,
        "model": result.model,
        "data": [{"index": item.index, "label": item.label, "score": item.score, "probs": dict(item.probs)} for item in result.data],
        "usage": _task_usage(result.usage),
        **receipt(result.receipt),
    }


def few_shot(result: FewShotResult) -> dict[str, Any]:
    """Return one answer a query; label, score and probabilities only where labels were given."""
    data: list[dict[str, Any]] = []
    for answer in result.data:
        entry: dict[str, Any] = {"index": answer.index, "text": answer.text}
        if answer.label is not None:
            entry |= {
                "label": answer.label,
                "score": answer.score,
                "probs": {label: probability for label, probability, _ in answer.probs},
                "logprobs": {label: logprob for label, _, logprob in answer.probs},
            }
        data.append(entry)
    return {
        "object": "list",
        "id": result.id,
        "model": result.model,
        "data": data,
        "usage": _task_usage(result.usage),
        **receipt(result.receipt),
    }


def tokens(result: TokenizeResult, *, with_strings: bool) -> dict[str, Any]:
    """Return vLLM's answer to ``/tokenize``."""
    data: dict[str, Any] = {"count": len(result.token_ids), "max_model_len": result.max_model_len, "tokens": result.token_ids}
    if with_strings:
        data["token_strs"] = result.tokens
    return data


def model(card: ModelCard) -> dict[str, Any]:
    """Return OpenAI's ``model`` with what this server knows more."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created_s,
        "owned_by": "attendant",
        "kind": card.kind,
        "tasks": card.tasks,
        "family": card.family,
        "max_model_len": card.max_model_len,
        "vocab_size": card.vocab_size,
        "embedding_size": card.embedding_size,
        "labels": card.labels,
        "adapters": card.adapters,
        "parent": card.parent,
        "digest": card.digest,
        "dtype": card.dtype,
        "device_kind": card.device_kind,
        "quantization": card.quantization,
        "kernels": card.kernels,
        "is_ready": card.is_ready,
        "state": card.state,
        "status": card.status,
        "num_replicas": card.num_replicas,
    }


def _generation(result: CompletionResult, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": result.id,
        "object": kind,
        "created": result.created_s,
        "model": result.model,
        "choices": choices,
        "usage": usage(result.usage),
        **receipt(result.receipt),
        "timing": timing(result.timing),
    }


def _task_usage(spent: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": spent.prompt_tokens,
        "cached_tokens": spent.cached_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.total_tokens,
    }


def _to_base64(vector: Sequence[float]) -> str:
    """Little-endian float32, whatever the machine."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode("ascii")
