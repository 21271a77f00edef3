"""The responses' shapes for the OpenAPI document. Nothing is checked against them on the way out; the tests do that."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's terms."""

    message: str = Field(description="A sentence: the value, the bound, the fix.")
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str


class ErrorAnswer(BaseModel):
    """Every error of this API."""

    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    """Where prompt tokens came from."""

    cached_tokens: int = Field(description="Tokens served from the prefix cache.")


class GenerationUsage(BaseModel):
    """Tokens a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TaskUsage(BaseModel):
    """Tokens a task cost."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


class ReceiptAnswer(BaseModel):
    """What fixed the answer: where all of it is the same, the tokens are the same again."""

    model_digest: str = Field(description="sha256 over the model's weight files.")
    engine_version: str
    dtype: str
    device_kind: str
    seed: int | None
    quantization: str = Field(description="Format that the weights were packed into at load: none, int8 or int4.")
    kernels: str = Field(description="What computed it: torch, triton, or the instruction set of the engine's own CPU kernels.")


class TimingAnswer(BaseModel):
    """Where the time went, in seconds."""

    queue_s: float
    prefill_s: float
    decode_s: float
    total_s: float


class CompletionLogprobs(BaseModel):
    """Parallel lists, one entry a token of the text returned."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class DecodedLogprob(BaseModel):
    """A token's log-probability and text."""

    logprob: float
    decoded_token: str


class CompletionChoiceAnswer(BaseModel):
    """One output of one prompt; ``index`` is prompt index * n + output index."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    stop_reason: str | int | None = Field(description="The stop text or stop token that ended it.")
    prompt_logprobs: list[dict[str, DecodedLogprob] | None] | None = None


class CompletionAnswer(BaseModel):
    """A finished completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoiceAnswer]
    usage: GenerationUsage
    system_fingerprint: str
    receipt: ReceiptAnswer
    timing: TimingAnswer


class TopLogprob(BaseModel):
    """A token that might have stood here."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token and its rivals."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry a generated token."""

    content: list[ContentLogprob]
    refusal: None


class AssistantMessage(BaseModel):
    """The model's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoiceAnswer(BaseModel):
    """One answer to the conversation."""

    index: int
    message: AssistantMessage
    token_ids: list[int]
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    stop_reason: str | int | None


class ChatAnswer(BaseModel):
    """A finished turn."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceAnswer]
    usage: GenerationUsage
    system_fingerprint: str
    receipt: ReceiptAnswer
    timing: TimingAnswer


class Embedding(BaseModel):
    """The vector of one input: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbedAnswer(BaseModel):
    """One vector an input, in order."""

    object: Literal["list"]
    id: str
    model: str
    data: list[Embedding]
    usage: GenerationUsage
    system_fingerprint: str
    receipt: ReceiptAnswer


class ClassificationAnswer(BaseModel):
    """The judgement of one input; ``probs`` in the order of the model's labels."""

    index: int
    label: str
    score: float
    probs: dict[str, float]


class ClassifyAnswer(BaseModel):
    """One judgement an input, in order."""

    object: Literal["list"]
    id: str
    model: str
    data: list[ClassificationAnswer]
    usage: TaskUsage
    system_fingerprint: str
    receipt: ReceiptAnswer


class FewShotAnswerEntry(BaseModel):
    """The answer to one query; the rest but ``text`` only where labels were given."""

    index: int
    text: str
    label: str | None = None
    score: float | None = None
    probs: dict[str, float] | None = None
    logprobs: dict[str, float] | None = Field(default=None, description="Summed log-probability of each label's tokens.")


class FewShotAnswers(BaseModel):
    """One answer a query, in order."""

    object: Literal["list"]
    id: str
    model: str
    data: list[FewShotAnswerEntry]
    usage: TaskUsage
    system_fingerprint: str
    receipt: ReceiptAnswer


class TokenizeAnswer(BaseModel):
    """How the model reads a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(BaseModel):
    """The text of token ids."""

    prompt: str


class TokenizerInfo(BaseModel):
    """A model's tokenizer: its special tokens, its limits, its chat template."""

    model_config = {"extra": "allow"}

    model: str


class ModelAnswer(BaseModel):
    """A served model: what it is, what it does, whether it is ready."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: str = Field(description="decoder, encoder or encoder-decoder.")
    tasks: list[str]
    family: str
    max_model_len: int = Field(description="Context length in tokens, prompt and completion together.")
    vocab_size: int
    embedding_size: int | None
    labels: list[str]
    adapters: list[str]
    parent: str | None = Field(description="The model that an adapter is served on; null for a model.")
    digest: str
    dtype: str
    device_kind: str
    quantization: str = Field(description="Format that the weights were packed into at load: none, int8 or int4.")
    kernels: str = Field(description="What computes: torch, triton, or the instruction set of the engine's own CPU kernels.")
    is_ready: bool
    state: str = Field(description="loading, ready, not_ready, draining (it is being unloaded) or failed (it could not be loaded).")
    status: str = Field(description="ready, or why not.")
    num_replicas: int


class ModelListAnswer(BaseModel):
    """The served models, in the order of the command line."""

    object: Literal["list"]
    data: list[ModelAnswer]


class StateAnswer(BaseModel):
    """The server's state."""

    status: Literal["ok", "ready"]


def event_stream_content(example: str) -> dict[str, Any]:
    """Return the OpenAPI content of a stream of chunks; no type, since some readers check the whole text and others each event."""
    return {"schema": {"description": "Server-sent events; the last is [DONE]."}, "example": example}
