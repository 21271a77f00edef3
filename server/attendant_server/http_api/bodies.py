"""Request bodies of the HTTP API: the canonical requests plus what is HTTP's own.

A body either is a canonical request with more fields, or turns into one (``to_request``). Fields that OpenAI's clients
send and that change nothing here (``user``, ``metadata``) are taken and ignored; those that would change the answer and
are not done are unknown, hence refused. Sources: OpenAI's API reference; vLLM's server for ``/tokenize`` and friends.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from attendant_server.gateway.requests import (
    MAX_INPUTS,
    MAX_TEXT_CHARS,
    ChatMessage,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    EmbedRequest,
    FewShotRequest,
    LoadModelRequest,
    SamplingFields,
    StrictModel,
    TaskRequest,
    Text,
    UnloadModelRequest,
)

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


def _is_given(name: str) -> dict[str, Any]:
    """Return the JSON schema of an object in which ``name`` is there and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _exactly_one(*names: str) -> dict[str, Any]:
    return {"oneOf": [_is_given(name) for name in names]}


def _needs_true(name: str, other: str) -> dict[str, Any]:
    """Return the JSON schema that asks for ``other`` to be true where ``name`` is given."""
    return {"if": _is_given(name), "then": {"required": [other], "properties": {other: {"const": True}}}}


class StreamOptions(StrictModel):
    """What a stream reports beside its text."""

    include_usage: Annotated[bool, Field(description="Send the usage in a last chunk that has no choices.")] = False
    continuous_usage_stats: Annotated[bool, Field(description="Send the usage so far in every chunk.")] = False


class TextFormat(StrictModel):
    """The one answer format there is: plain text."""

    type: Literal["text"]


class OpenAIFields(BaseModel):
    """Fields of OpenAI's that change nothing here, in the values that ask for nothing."""

    user: Annotated[str, Field(max_length=4096, description="Ignored.")] | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=64, description="Ignored.")] | None = None


class StreamFields(BaseModel):
    """Whether and how to stream."""

    stream: Annotated[bool, Field(description="Answer with server-sent events, a chunk at a time.")] = False
    stream_options: StreamOptions | None = None

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and info.data.get("stream") is False:
            raise ValueError("this is only for streams; set stream to true or leave it out")
        return value

    @property
    def sends_usage_last(self) -> bool:
        """True when the stream ends with a chunk that has the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def sends_usage_always(self) -> bool:
        """True when every chunk has the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionBody(CompletionRequest, StreamFields, OpenAIFields):
    """Body of ``POST /v1/completions``. ``suffix`` is refused: no served model fills in the middle."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "attendant-gpt", "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0}],
            **_needs_true("stream_options", "stream"),
        }
    )


class TextPart(StrictModel):
    """A piece of a message's content; text is the only kind."""

    type: Literal["text"]
    text: Text


class MessageBody(StrictModel):
    """One turn; content is a text or a list of text parts, which are joined. lm-eval adds ``type: text``."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    name: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["text"] | None = None

    def to_message(self) -> ChatMessage:
        """The canonical message."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role=self.role, content=content, name=self.name)


Messages = Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


class ChatBody(TaskRequest, SamplingFields, StreamFields, OpenAIFields):
    """Body of ``POST /v1/chat/completions``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "my-chat-model", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32}],
            "allOf": [_needs_true("stream_options", "stream"), _needs_true("top_logprobs", "logprobs")],
        }
    )

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000, description="OpenAI's newer name of max_tokens.")] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20, description="Most probable tokens a position; needs logprobs.")] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] = "auto"

    @field_validator("max_completion_tokens")
    @classmethod
    def _same_as_max_tokens(cls, value: int | None, info: ValidationInfo) -> int | None:
        max_tokens = info.data.get("max_tokens")
        if None not in (value, max_tokens) and value != max_tokens:
            raise ValueError(f"it is {value} and max_tokens is {max_tokens}; they mean the same, give one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("logprobs") is False:
            raise ValueError("this needs logprobs to be true")
        return value

    def to_request(self) -> ChatRequest:
        """The canonical request."""
        sampling = {name: getattr(self, name) for name in SamplingFields.model_fields if name in self.model_fields_set}
        return ChatRequest(
            model=self.model,
            messages=[message.to_message() for message in self.messages],
            max_tokens=self.max_completion_tokens if self.max_tokens is None else self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            **sampling,
        )


class EmbedBody(EmbedRequest, OpenAIFields):
    """Body of ``POST /v1/embeddings``; base64 holds the values as little-endian float32."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "my-encoder", "input": ["a cat", "a dog"]}]})

    encoding_format: Literal["float", "base64"] = "float"


class ClassifyBody(ClassifyRequest, OpenAIFields):
    """Body of ``POST /v1/classify``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "my-classifier", "input": ["what a lovely film"]}], **_exactly_one("input", "pairs")}
    )


class FewShotBody(FewShotRequest, OpenAIFields):
    """Body of ``POST /v1/few-shot``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "attendant-gpt",
                    "instruction": "Say whether the text is happy or sad.",
                    "examples": [{"input": "What a lovely day!", "output": "happy"}, {"input": "The dog died.", "output": "sad"}],
                    "queries": ["She smiled and danced."],
                    "labels": ["happy", "sad"],
                }
            ]
        }
    )


class LoadModelBody(LoadModelRequest):
    """Body of ``POST /v1/models/load``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "my-model", "directory": "my-model-2026-11"}]})


class UnloadModelBody(UnloadModelRequest):
    """Body of ``POST /v1/models/unload``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "my-model"}]})


class TokenizeBody(StrictModel):
    """Body of ``POST /tokenize``: a ``prompt``, or ``messages`` that the model's chat template writes; no model: the first served."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "attendant-gpt", "prompt": "Once upon a time"}], **_exactly_one("prompt", "messages")}
    )

    model: ModelName | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: Annotated[bool, Field(description="By default true for a prompt and false for messages.")] | None = None
    add_generation_prompt: Annotated[bool, Field(description="For messages: end with the start of the assistant's turn.")] = True
    return_token_strs: Annotated[bool, Field(description="Also return each token as the vocabulary writes it.")] = False

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> "TokenizeBody":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of 'prompt' (a text) and 'messages' (a conversation)")
        return self


class DetokenizeBody(StrictModel):
    """Body of ``POST /detokenize``; no model: the first served."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "attendant-gpt", "tokens": [403, 407, 261, 378]}]})

    model: ModelName | None = None
    tokens: Annotated[list[Annotated[int, Field(json_schema_extra={"minimum": 0})]], Field(max_length=MAX_TEXT_CHARS, fail_fast=True)]
