"""The tasks' results, once for every transport: what the gateway found, in no wire's shape."""

from dataclasses import dataclass
from typing import Literal, Self

from attendant_engine.types import ModelInfo

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens a request cost."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What fixed the answer: where all of it is the same, the tokens are the same again."""

    model_digest: str
    engine_version: str
    dtype: str
    device_kind: str
    seed: int | None = None
    quantization: str = "none"
    kernels: str = "torch"

    @classmethod
    def of(cls, info: ModelInfo, seed: int | None = None) -> Self:
        """Say it of a loaded model."""
        return cls(
            model_digest=info.digest,
            engine_version=info.engine_version,
            dtype=info.dtype,
            device_kind=info.device_kind,
            seed=seed,
            quantization=info.quantization,
            kernels=info.kernels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time went, in seconds."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token, its text and bytes, and its log-probability."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    """One position: the token there (``logprob`` None where nothing predicts it), the best ones, the text offset in characters."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()
    text_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionChoice:
    """One finished output. ``index`` is prompt index * n + output index."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_text: str | None = None
    stop_token_id: int | None = None
    logprobs: tuple[PositionLogprobs, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResult:
    """A finished completion or chat request (a chat choice's ``text`` is the assistant's turn)."""

    id: str
    model: str
    created_s: int
    choices: tuple[CompletionChoice, ...]
    usage: Usage
    receipt: Receipt
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDelta:
    """New text and tokens of one output of a stream; ``finish_reason`` in its last one. ``usage`` is the request's so far.

    ``resume_token`` is in the stream's first one and wherever it changes, empty elsewhere (see ``resumption``).
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    stop_text: str | None = None
    stop_token_id: int | None = None
    logprobs: tuple[PositionLogprobs, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs, ...] | None = None
    resume_token: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """The last item of every stream that was not cut short."""

    usage: Usage
    receipt: Receipt
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """One vector an input, in order, as float32 values."""

    id: str
    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The judgement of one input; ``probs`` in the config's label order."""

    index: int
    label: str
    score: float
    probs: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyResult:
    """One judgement an input, in order."""

    id: str
    model: str
    data: tuple[Classification, ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotAnswer:
    """The answer to one query; ``probs`` are (label, probability, summed log-probability) in the order given."""

    index: int
    text: str
    label: str | None = None
    score: float | None = None
    probs: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotResult:
    """One answer a query, in order."""

    id: str
    model: str
    data: tuple[FewShotAnswer, ...]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeResult:
    """How the model reads a text."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    max_model_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A served model or adapter as ``/v1/models`` and ``ListModels`` show it. ``status`` is "ready" or says why not.

    ``parent`` is the model that an adapter is served on, None for a model. ``state``: loading, ready, not_ready, draining, failed.
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
    labels: tuple[str, ...] = ()
    embedding_size: int | None = None
    is_ready: bool = False
    status: str = ""
    num_replicas: int = 0
    adapters: tuple[str, ...] = ()
    parent: str | None = None
    created_s: int = 0
    quantization: str = "none"
    kernels: str = "torch"
    state: str = ""
