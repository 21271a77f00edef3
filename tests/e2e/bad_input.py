"""One bad input: what is sent on either transport, and what the one clear error must say.

The words are those a caller needs to repair the request: the value, the bound, the way out. What one transport cannot
express (JSON that is none, a text where a number belongs) has no form on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from attendant.v1 import chat_pb2, classification_pb2, common_pb2, completion_pb2, embedding_pb2, few_shot_pb2
from tests.e2e.checkpoints import DECODER_VOCAB_SIZE

CONTEXT = 256
"""Tokens (here: ASCII characters) that the decoders take."""
ENCODER_CONTEXT = 64
MAX_BODY_BYTES = 8 * 2**20
LARGEST_ID = DECODER_VOCAB_SIZE - 1

COMPLETIONS, CHAT, EMBEDDINGS, CLASSIFY = "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classify"
FEW_SHOT, TOKENIZE, DETOKENIZE = "/v1/few-shot", "/tokenize", "/detokenize"

USER: dict[str, Any] = {"role": "user", "content": "hello"}
_GOOD_BODIES: Mapping[str, dict[str, Any]] = {
    COMPLETIONS: {"model": "talker", "prompt": "hello", "max_tokens": 4},
    CHAT: {"model": "talker", "messages": [USER], "max_tokens": 4},
    EMBEDDINGS: {"model": "encoder", "input": "hello"},
    CLASSIFY: {"model": "classifier", "input": "hello"},
    FEW_SHOT: {"model": "talker", "queries": ["hello"], "labels": ["a", "b"]},
    TOKENIZE: {"model": "talker", "prompt": "hello"},
    DETOKENIZE: {"model": "talker", "tokens": [1]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """A gRPC form: the method and its message."""

    method: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """A bad request and its error. ``fields`` change the route's good body (None takes a field out); ``raw`` replaces it."""

    name: str
    words: tuple[str, ...]
    param: str | None
    code: str = "invalid_value"
    path: str = COMPLETIONS
    fields: Mapping[str, Any] | None = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    http_status: int = 400
    rpc: Rpc | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def grpc_code(self) -> grpc.StatusCode:
        """The status that the gRPC form ends with."""
        codes = {404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED}
        return codes.get(self.http_status, grpc.StatusCode.INVALID_ARGUMENT)

    @property
    def has_http(self) -> bool:
        """Tell whether there is an HTTP form."""
        return self.fields is not None or self.raw is not None

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        merged = _GOOD_BODIES[self.path] | dict(self.fields or {})
        return {key: value for key, value in merged.items() if value is not None}


def text_prompt(text: str) -> common_pb2.Prompt:
    """A prompt of text on the wire."""
    return common_pb2.Prompt(text=text)


def id_prompt(*ids: int) -> common_pb2.Prompt:
    """A prompt of token ids on the wire."""
    return common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=ids))


def complete(*prompts: common_pb2.Prompt, model: str = "talker", sampling: Mapping[str, Any] | None = None, **fields: Any) -> Rpc:
    """Build the gRPC form of a completion."""
    message = completion_pb2.CompleteRequest(
        model=model, prompts=prompts, sampling=common_pb2.SamplingParams(**({"max_tokens": 4} | dict(sampling or {}))), **fields
    )
    return Rpc(method="Complete", message=message)


def chat(*contents: str, model: str = "talker") -> Rpc:
    """Build the gRPC form of a conversation of one speaker."""
    messages = [chat_pb2.ChatMessage(role="user", content=content) for content in contents]
    return Rpc(method="Chat", message=chat_pb2.ChatRequest(model=model, messages=messages))


def embed(*inputs: common_pb2.Prompt, model: str = "encoder", **fields: Any) -> Rpc:
    """Build the gRPC form of an embedding."""
    return Rpc(method="Embed", message=embedding_pb2.EmbedRequest(model=model, inputs=inputs, **fields))


def classify(*texts: str, model: str = "classifier") -> Rpc:
    """Build the gRPC form of a classification."""
    inputs = [classification_pb2.ClassifyInput(text=text) for text in texts]
    return Rpc(method="Classify", message=classification_pb2.ClassifyRequest(model=model, inputs=inputs))


def few_shot(model: str = "talker", **fields: Any) -> Rpc:
    """Build the gRPC form of a few-shot request."""
    return Rpc(method="FewShot", message=few_shot_pb2.FewShotRequest(**({"model": model, "queries": ["hello"]} | fields)))
