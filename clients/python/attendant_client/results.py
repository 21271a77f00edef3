"""What calls return: plain frozen data, the wire's messages without the wire."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a request cost; ``cached_tokens`` of the prompt's came from the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What fixed the answer: where all of it is the same, the tokens are the same again."""

    model_digest: str
    engine_version: str
    dtype: str
    device_kind: str
    seed: int
    quantization: str = "none"
    kernels: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time went on the server, in seconds."""

    queue_s: float
    prefill_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    """One position: its token, ``logprob`` None where nothing predicts it, and the most probable tokens, best first."""

    token_id: int
    token: str
    logprob: float | None
    top: tuple[TokenLogprob, ...]
    text_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One output; ``index`` is prompt index * n + output index. In a stream: its new part, ``finish_reason`` in the last."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_text: str | None
    stop_token_id: int | None
    logprobs: tuple[PositionLogprobs, ...]
    prompt_logprobs: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionAnswer:
    """A finished completion."""

    id: str
    model: str
    completions: tuple[Completion, ...]
    usage: Usage
    receipt: Receipt
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    """One answer to a conversation; in a stream, its new part."""

    index: int
    content: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A finished turn."""

    id: str
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage
    receipt: Receipt
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """What the last message of a stream says of the whole."""

    id: str
    model: str
    usage: Usage
    receipt: Receipt
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingAnswer:
    """One vector an input, in order."""

    id: str
    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The judgement of one input; ``probs`` in the model's label order."""

    index: int
    label: str
    score: float
    probs: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationAnswer:
    """One judgement an input, in order."""

    id: str
    model: str
    classifications: tuple[Classification, ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotResult:
    """The answer to one query; ``label``, ``score``, ``probs`` and ``logprobs`` (by label) only when labels were given."""

    index: int
    text: str
    label: str | None
    score: float | None
    probs: dict[str, float]
    logprobs: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotAnswer:
    """One answer a query, in order."""

    id: str
    model: str
    answers: tuple[FewShotResult, ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How a model reads a text, and how much of it it takes."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    max_model_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A served model or adapter; ``status`` says why it is not ready, if it is not. ``parent``: the model that an adapter is on.

    ``state``: loading, ready, not_ready, draining or failed.
    """

    id: str
    kind: str
    tasks: tuple[str, ...]
    family: str
    max_model_len: int
    vocab_size: int
    digest: str
    dtype: str
    device_kind: str
    labels: tuple[str, ...]
    embedding_size: int | None
    is_ready: bool
    status: str
    num_replicas: int
    adapters: tuple[str, ...]
    quantization: str = "none"
    kernels: str = ""
    parent: str | None = None
    state: str = ""
