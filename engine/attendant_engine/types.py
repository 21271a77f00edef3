"""What crosses the engine's door: requests in, outputs out. Plain, frozen data; no tensors, no text, no behaviour.

The server converts these to and from the link's wire form, so everything here must stay serialisable by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]
PoolingMode = Literal["mean", "cls", "last"]
ModelKind = Literal["decoder", "encoder", "encoder-decoder"]
Task = Literal["completion", "chat", "few-shot", "embedding", "classification"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next tokens of one sequence are chosen.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1.0 are off; ``min_p`` 0.0 is off.
    ``repetition_penalty`` follows Keskar et al. 2019 (prompt and output); ``presence_penalty`` and
    ``frequency_penalty`` follow OpenAI (output only). ``logit_bias`` maps token id to an added logit.
    ``seed`` None means the engine picks one and reports it. ``logprobs`` n: the chosen token's log-probability and
    the n most probable tokens, taken from the raw (unmodified) logits; None: none. ``prompt_logprobs`` the same for prompt tokens,
    from position ``prompt_logprobs_start`` on (earlier ones may then come from the prefix cache uncomputed).
    ``max_tokens`` 0 is allowed and means: only the prompt is scored.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Continue ``prompt_token_ids`` with ``n`` independent sequences.

    Sequence ``index`` i of a seeded request draws from (seed, i, position) alone, so neither the batch nor a
    preemption changes it. ``priority``: lower is served first, ties by arrival. ``cache_salt`` keeps prefix-cache
    entries of different tenants apart.

    A sequence that another replica has begun goes on here: ``index`` is its own in the request that it came from, and
    ``output_token_ids`` are what it has generated, which count as output and are not reported again. With the seed that
    was reported there, the tokens that follow are the ones that would have followed there.

    ``deadline_s`` on ``time.monotonic``'s clock of this process: past it the request ends with deadline_exceeded.
    ``tenant`` is who it is computed for, opaque here, ``tenant_weight`` the tenant's share beside other tenants'.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    index: int = 0
    output_token_ids: Sequence[int] = ()
    priority: int = 0
    cache_salt: str = ""
    deadline_s: float | None = None
    tenant: str = ""
    tenant_weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingRequest:
    """One vector for one (already tokenised) text or pair: an embedding or the logits of a classifier.

    ``token_type_ids`` are BERT's segments, None for all zero. ``pooling`` None takes the model's own.
    ``normalize`` None takes the model's own; it is ignored by classification. ``adapter`` names the one to compute with.
    ``deadline_s``, ``tenant`` and ``tenant_weight`` as in ``GenerationRequest``.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    task: Literal["embedding", "classification"]
    token_type_ids: Sequence[int] | None = None
    pooling: PoolingMode | None = None
    normalize: bool | None = None
    priority: int = 0
    adapter: str | None = None
    deadline_s: float | None = None
    tenant: str = ""
    tenant_weight: float = 1.0


EngineRequest = GenerationRequest | PoolingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities at one position: the token that is there, and the most probable ones, best first."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """Why a request ended without an answer; ``code`` is that of ``errors``, ``retry_after_s`` when another try may do better."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOutput:
    """What one step added to sequence ``index`` of a generation request.

    The last output of a sequence has ``finish_reason``. A stop token ends the sequence and is the last of
    ``token_ids``; ``stop_token_id`` then names it (None when the end was another's doing).
    ``prompt_logprobs`` comes once, with the first output of index 0: one entry a prompt position from
    ``prompt_logprobs_start`` on; position 0 has no prediction and is None.
    ``num_cached_tokens`` and the stage times (seconds) are set on the first and last output; ``seed`` on the first.
    """

    request_id: str
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    seed: int | None = None
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    error: OutputError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledOutput:
    """The finished answer to a pooling request: ``values`` is the vector (embedding) or raw logits (classification)."""

    request_id: str
    values: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    queue_s: float = 0.0
    error: OutputError | None = None


EngineOutput = SequenceOutput | PooledOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """What an adapter of a loaded model does; ``digest`` names the model's weights and the adapter's together."""

    name: str
    tasks: tuple[Task, ...]
    digest: str
    rank: int
    num_parameters: int
    labels: tuple[str, ...] = ()
    multi_label: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded model is and does: all a gateway needs to validate, tokenise for and describe it.

    ``digest`` is the sha256 over the weight files' contents; with ``engine_version``, ``dtype``, ``device_kind``,
    ``quantization`` and ``kernels`` it names what fixes an answer. ``max_model_len`` is in tokens, prompt and completion
    together. ``kernels`` says what computes: torch, triton, or the instruction set of our own CPU kernels.
    """

    name: str
    path: str
    family: str
    kind: ModelKind
    tasks: tuple[Task, ...]
    digest: str
    engine_version: str
    dtype: str
    device_kind: str
    max_model_len: int
    vocab_size: int
    num_parameters: int = 0
    eos_token_ids: tuple[int, ...] = ()
    embedding_size: int | None = None
    pooling: PoolingMode | None = None
    normalize: bool = False
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    uses_token_types: bool = False
    quantization: str = "none"
    kernels: str = "torch"
    adapters: tuple[AdapterInfo, ...] = ()
