"""Calls' arguments become gRPC messages. Bounds are the server's business; only what the wire cannot carry is refused here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

from attendant.v1 import (
    chat_pb2,
    classification_pb2,
    common_pb2,
    completion_pb2,
    embedding_pb2,
    few_shot_pb2,
    tokenization_pb2,
)
from attendant_client.errors import InvalidRequestError

Prompt = str | Sequence[int]
"""Text, or token ids of the model's own vocabulary."""
Prompts = Prompt | Sequence[str] | Sequence[Sequence[int]]
"""One prompt, or several of one kind."""
Message = Mapping[str, str] | tuple[str, str]
"""A turn: ``{"role": ..., "content": ...}`` or ``(role, content)``."""
Pooling = Literal["mean", "cls", "last"]

_POOLING = {"mean": embedding_pb2.POOLING_MEAN, "cls": embedding_pb2.POOLING_CLS, "last": embedding_pb2.POOLING_LAST}


class FewShotOptions(TypedDict, total=False):
    """How a few-shot answer is generated when no labels are given; absent and None take the server's default."""

    max_tokens: int | None
    temperature: float | None
    seed: int | None
    stop: str | Sequence[str] | None


class ChatOptions(FewShotOptions, total=False):
    """How tokens are chosen; ``proto/attendant/v1/common.proto`` says what each does and its default."""

    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    min_tokens: int | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    n: int | None
    best_of: int | None
    logprobs: int | None
    priority: int
    cache_salt: str


class CompleteOptions(ChatOptions, total=False):
    """What a completion takes beside the sampling of a chat."""

    prompt_logprobs: int | None
    echo: bool


@dataclass(frozen=True, slots=True)
class FewShotExample:
    """A worked example; ``reasoning`` stands between input and output, for chain of thought."""

    input: str
    output: str
    reasoning: str | None = None


def complete_request(model: str, prompt: Prompts, options: CompleteOptions) -> completion_pb2.CompleteRequest:
    """Write a completion request. Raises ``InvalidRequestError`` for what the wire cannot carry, as all functions here do."""
    with _refusing("prompt"):
        message = completion_pb2.CompleteRequest(model=model, prompts=_prompts(prompt))
    _set(message, message.sampling, dict(options))
    return message


def chat_request(model: str, messages: str | Sequence[Message], options: ChatOptions) -> chat_pb2.ChatRequest:
    """Write a chat request; a bare string is one user's turn."""
    with _refusing("messages"):
        message = chat_pb2.ChatRequest(model=model, messages=[_turn(turn) for turn in _turns(messages)])
    _set(message, message.sampling, dict(options))
    return message


def embed_request(
    model: str, inputs: Prompts, *, dimensions: int | None, pooling: Pooling | None, normalize: bool | None
) -> embedding_pb2.EmbedRequest:
    """Write an embedding request."""
    with _refusing("input"):
        message = embedding_pb2.EmbedRequest(model=model, inputs=_prompts(inputs), normalize=normalize)
    with _refusing("dimensions"):
        if dimensions is not None:
            message.dimensions = dimensions
    if pooling is not None:
        if pooling not in _POOLING:
            raise InvalidRequestError(f"'pooling' is {pooling!r}; it must be mean, cls or last.", code="invalid_value", param="pooling")
        message.pooling = _POOLING[pooling]
    return message


def classify_request(
    model: str, inputs: str | Sequence[str] | Sequence[tuple[str, str]], *, multi_label: bool | None
) -> classification_pb2.ClassifyRequest:
    """Write a classification request over texts or pairs of texts."""
    with _refusing("input"):
        items = [inputs] if isinstance(inputs, str) else inputs
        return classification_pb2.ClassifyRequest(model=model, inputs=[_classify_input(item) for item in items], multi_label=multi_label)


def few_shot_request(
    model: str,
    *,
    queries: str | Sequence[str],
    examples: Sequence[FewShotExample | tuple[str, str]],
    labels: Sequence[str] | None,
    instruction: str,
    template: str | None,
    calibrate: bool,
    options: FewShotOptions,
) -> few_shot_pb2.FewShotRequest:
    """Write a few-shot request."""
    with _refusing("queries"):
        worked = [example if isinstance(example, FewShotExample) else FewShotExample(*example) for example in examples]
        message = few_shot_pb2.FewShotRequest(
            model=model,
            instruction=instruction,
            examples=[
                few_shot_pb2.FewShotExample(input=example.input, output=example.output, reasoning=example.reasoning) for example in worked
            ],
            queries=[queries] if isinstance(queries, str) else queries,
            labels=labels,
            template=template,
            calibrate=calibrate,
        )
    _set(message, message.sampling, dict(options))
    return message


def tokenize_request(model: str, text: str, *, add_special_tokens: bool) -> tokenization_pb2.TokenizeRequest:
    """Write a tokenise request."""
    with _refusing("text"):
        return tokenization_pb2.TokenizeRequest(model=model, text=text, add_special_tokens=add_special_tokens)


def detokenize_request(model: str, token_ids: Sequence[int]) -> tokenization_pb2.DetokenizeRequest:
    """Write a detokenise request."""
    with _refusing("token_ids"):
        return tokenization_pb2.DetokenizeRequest(model=model, token_ids=token_ids)


def _prompts(prompt: Prompts) -> list[common_pb2.Prompt]:
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [_prompt(cast("Prompt", prompt))]
    return [_prompt(item) for item in cast("Sequence[Prompt]", prompt)]


def _prompt(prompt: Prompt) -> common_pb2.Prompt:
    if isinstance(prompt, str):
        return common_pb2.Prompt(text=prompt)
    return common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=prompt))


def _turns(messages: str | Sequence[Message]) -> Sequence[Message]:
    return [("user", messages)] if isinstance(messages, str) else messages


def _turn(turn: Message) -> chat_pb2.ChatMessage:
    if isinstance(turn, tuple):
        role, content = turn
        return chat_pb2.ChatMessage(role=role, content=content)
    return chat_pb2.ChatMessage(**turn)


def _classify_input(item: str | tuple[str, str]) -> classification_pb2.ClassifyInput:
    if isinstance(item, str):
        return classification_pb2.ClassifyInput(text=item)
    text, pair = item
    return classification_pb2.ClassifyInput(text=text, pair=pair)


def _set(message: Any, sampling: common_pb2.SamplingParams, options: dict[str, Any]) -> None:
    """Set each option on the sampling parameters, or on the message itself where the field is the message's."""
    for name, value in options.items():
        if value is None:
            continue
        with _refusing(name):
            if name == "stop":
                sampling.stop.extend([value] if isinstance(value, str) else value)
            elif name == "stop_token_ids":
                sampling.stop_token_ids.extend(value)
            elif name == "logit_bias":
                sampling.logit_bias.update(value)
            elif name in sampling.DESCRIPTOR.fields_by_name:
                setattr(sampling, name, value)
            elif name in ("echo", "priority", "cache_salt") and name in message.DESCRIPTOR.fields_by_name:
                setattr(message, name, value)
            else:
                # A misspelt keyword is a mistake in the program, as with any other function.
                raise InvalidRequestError(f"'{name}' is not a parameter of this call.", code="unsupported_parameter", param=name)


@contextmanager
def _refusing(param: str) -> Iterator[None]:
    """Turn protobuf's refusal of a value into ours."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"'{param}' cannot be sent: {error}.", code="invalid_value", param=param) from error
