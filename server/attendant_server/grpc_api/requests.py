"""gRPC messages become the tasks' canonical requests.

A message turns into the same dictionary that a JSON body would be, and the canonical model checks it: defaults, bounds
and sentences are therefore those of HTTP. What proto3 cannot tell apart from absence is left out, not guessed.
"""

from collections.abc import Sequence
from typing import Any

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
from attendant_server.errors import ServingError
from attendant_server.gateway.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbedRequest,
    FewShotRequest,
    LoadModelRequest,
    ReceivedOutput,
    Resume,
    TokenizeRequest,
    UnloadModelRequest,
)
from attendant_server.gateway.validation import MAX_SEQUENCES

_OPTIONAL_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "seed",
    "n",
    "best_of",
    "logprobs",
    "prompt_logprobs",
)
_POOLING = {embedding_pb2.POOLING_MEAN: "mean", embedding_pb2.POOLING_CLS: "cls", embedding_pb2.POOLING_LAST: "last"}


def load_model(message: models_pb2.LoadModelRequest) -> LoadModelRequest:
    """Read a request to load a model. Raises pydantic's ``ValidationError``."""
    return LoadModelRequest.model_validate({"model": message.model, "directory": message.directory or None})


def unload_model(message: models_pb2.UnloadModelRequest) -> UnloadModelRequest:
    """Read a request to unload a model. Raises pydantic's ``ValidationError``."""
    return UnloadModelRequest.model_validate({"model": message.model})


def completion(message: completion_pb2.CompleteRequest) -> CompletionRequest:
    """Read a completion request. Raises pydantic's ``ValidationError`` or ``ServingError``, as all functions here do."""
    return CompletionRequest.model_validate(
        {
            "model": message.model,
            "prompt": _texts_or_ids(message.prompts, "prompt"),
            "echo": message.echo,
            **_scheduling(message),
            **_sampling(message.sampling),
        }
    )


def chat(message: chat_pb2.ChatRequest) -> ChatRequest:
    """Read a chat request."""
    return ChatRequest.model_validate(
        {
            "model": message.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in message.messages],
            **_scheduling(message),
            **_sampling(message.sampling),
        }
    )


def resume(message: completion_pb2.StreamCompleteRequest | chat_pb2.StreamChatRequest) -> Resume | None:
    """Read what a stream goes on from; None for one that begins."""
    if not message.HasField("resume"):
        return None
    num_outputs = len(message.resume.outputs)
    if num_outputs > MAX_SEQUENCES:
        raise ServingError("invalid_value", f"'resume' has {num_outputs} outputs; a request has at most {MAX_SEQUENCES}", param="resume")
    outputs = tuple(
        ReceivedOutput(index=output.index, token_ids=tuple(output.token_ids), is_finished=output.is_finished)
        for output in message.resume.outputs
    )
    return Resume(token=message.resume.token, outputs=outputs)


def embed(message: embedding_pb2.EmbedRequest) -> EmbedRequest:
    """Read an embedding request."""
    data: dict[str, Any] = {"model": message.model, "input": _texts_or_ids(message.inputs, "input")}
    if message.HasField("dimensions"):
        data["dimensions"] = message.dimensions
    if message.HasField("normalize"):
        data["normalize"] = message.normalize
    if message.pooling != embedding_pb2.POOLING_UNSPECIFIED:
        data["pooling"] = _POOLING.get(message.pooling, str(int(message.pooling)))
    return EmbedRequest.model_validate(data)


def classify(message: classification_pb2.ClassifyRequest) -> ClassifyRequest:
    """Read a classification request; its inputs are all texts or all pairs."""
    num_pairs = sum(item.HasField("pair") for item in message.inputs)
    data: dict[str, Any] = {"model": message.model}
    if num_pairs == 0:
        data["input"] = [item.text for item in message.inputs]
    elif num_pairs == len(message.inputs):
        data["pairs"] = [[item.text, item.pair] for item in message.inputs]
    else:
        raise ServingError(
            "invalid_value",
            f"{num_pairs} of the {len(message.inputs)} inputs are pairs and the others single texts; send texts and pairs in two requests",
            param="inputs",
        )
    if message.HasField("multi_label"):
        data["multi_label"] = message.multi_label
    return ClassifyRequest.model_validate(data)


def few_shot(message: few_shot_pb2.FewShotRequest) -> FewShotRequest:
    """Read a few-shot request."""
    data: dict[str, Any] = {
        "model": message.model,
        "instruction": message.instruction,
        "examples": [
            {"input": example.input, "output": example.output} | ({"reasoning": example.reasoning} if example.HasField("reasoning") else {})
            for example in message.examples
        ],
        "queries": list(message.queries),
        "calibrate": message.calibrate,
        **_sampling(message.sampling),
    }
    if message.labels:
        data["labels"] = list(message.labels)
    if message.HasField("template"):
        data["template"] = message.template
    return FewShotRequest.model_validate(data)


def tokenize(message: tokenization_pb2.TokenizeRequest) -> TokenizeRequest:
    """Read a tokenise request."""
    data: dict[str, Any] = {"model": message.model, "text": message.text}
    if message.HasField("add_special_tokens"):
        data["add_special_tokens"] = message.add_special_tokens
    return TokenizeRequest.model_validate(data)


def detokenize(message: tokenization_pb2.DetokenizeRequest) -> DetokenizeRequest:
    """Read a detokenise request."""
    return DetokenizeRequest.model_validate({"model": message.model, "token_ids": list(message.token_ids)})


def _scheduling(message: completion_pb2.CompleteRequest | chat_pb2.ChatRequest) -> dict[str, Any]:
    return {"priority": message.priority, "cache_salt": message.cache_salt}


def _sampling(message: common_pb2.SamplingParams) -> dict[str, Any]:
    """The fields that were given; those a task does not have are refused by its model as unknown."""
    data: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL_SAMPLING if message.HasField(name)}  # type: ignore[arg-type]
    if message.logit_bias:
        data["logit_bias"] = {str(token_id): bias for token_id, bias in message.logit_bias.items()}
    if message.stop:
        data["stop"] = list(message.stop)
    if message.stop_token_ids:
        data["stop_token_ids"] = list(message.stop_token_ids)
    if message.ignore_eos:
        data["ignore_eos"] = True
    return data


def _texts_or_ids(prompts: Sequence[common_pb2.Prompt], param: str) -> str | list[int] | list[str] | list[list[int]]:
    """All texts or all token ids, as JSON bodies have them; a single one stands alone."""
    kinds = {prompt.WhichOneof("kind") for prompt in prompts}
    if None in kinds:
        index = next(index for index, prompt in enumerate(prompts) if prompt.WhichOneof("kind") is None)
        raise ServingError("invalid_value", f"'{param}[{index}]' has neither text nor token_ids; give one of the two", param=param)
    if len(kinds) > 1:
        raise ServingError("invalid_value", f"'{param}' mixes texts and token ids; send the two kinds in two requests", param=param)
    if kinds == {"token_ids"}:
        ids = [list(prompt.token_ids.ids) for prompt in prompts]
        return ids[0] if len(ids) == 1 else ids
    texts = [prompt.text for prompt in prompts]
    return texts[0] if len(texts) == 1 else texts
