"""A replica without an engine, and a tokenizer whose tokens are bytes: what the gateway's tests run on.

Token ids 0 to 255 are the bytes; then come a mark before every text, two marks for pairs, and an end of text.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from attendant_engine.tokenizers.pieces import byte_of_character
from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, ModelInfo, PoolingRequest, SequenceOutput, TokenLogprobs
from attendant_server.errors import ServingError
from attendant_server.gateway.interface import CallContext
from attendant_server.link.base import OutputSink, ReplicaLoad
from attendant_server.link.prefix_digest import PrefixDigest

BOS_ID, SEP_ID, EOS_ID = 256, 257, 258
VOCAB_SIZE = 259

Answer = Callable[[EngineRequest], Iterable[EngineOutput]]


def write_tokenizer(directory: Path, *, chat_template: str | None = None) -> Path:
    """Write the tokenizer files to ``directory`` and return it."""
    vocab = byte_of_character()
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "<sep>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <sep> $B:1", special_tokens=[("<s>", BOS_ID), ("<sep>", SEP_ID)]
    )
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return directory


def ids_of(text: str) -> tuple[int, ...]:
    """Return the tokens of a text, without marks."""
    return tuple(text.encode("utf-8"))


def model_info(**changes: Any) -> ModelInfo:
    """Describe a small decoder, but for ``changes``."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "path": "",
        "family": "llama",
        "kind": "decoder",
        "tasks": ("completion", "chat", "few-shot"),
        "digest": "d" * 64,
        "engine_version": "0.1.0",
        "dtype": "float32",
        "device_kind": "cpu",
        "max_model_len": 64,
        "vocab_size": VOCAB_SIZE,
        "eos_token_ids": (EOS_ID,),
    }
    return ModelInfo(**{**fields, **changes})


def call(**changes: Any) -> CallContext:
    """Make a call's context."""
    return CallContext(**{"request_id": "req-1", "endpoint": "test", **changes})


class FakeLink:
    """A ready replica that notes what it is asked and answers by ``answer`` on the next turn of the loop, if that is set."""

    def __init__(self, info: ModelInfo | None = None, *, replica_id: str = "r0", answer: Answer | None = None) -> None:
        self._info: ModelInfo | None = info or model_info()
        self._replica_id = replica_id
        self.answer = answer
        self.is_up = True
        self.load_now = ReplicaLoad()
        self.digest = PrefixDigest()
        self.metrics = b""
        self.submitted: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.sinks: dict[str, OutputSink] = {}

    @property
    def replica_id(self) -> str:
        return self._replica_id

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    @info.setter
    def info(self, info: ModelInfo | None) -> None:
        self._info = info

    @property
    def is_ready(self) -> bool:
        return self.is_up and self._info is not None

    @property
    def status(self) -> str:
        return "ready" if self.is_ready else "the model is still loading"

    @property
    def load(self) -> ReplicaLoad:
        return self.load_now

    @property
    def prefixes(self) -> PrefixDigest:
        return self.digest

    @property
    def metrics_text(self) -> bytes:
        return self.metrics

    @property
    def generations(self) -> list[GenerationRequest]:
        """The generation requests so far."""
        return [request for request in self.submitted if isinstance(request, GenerationRequest)]

    @property
    def poolings(self) -> list[PoolingRequest]:
        """The pooling requests so far."""
        return [request for request in self.submitted if isinstance(request, PoolingRequest)]

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        if not self.is_ready:
            raise ServingError("not_ready", self.status)
        self.submitted.append(request)
        self.sinks[request.request_id] = sink
        if self.answer is not None:
            for output in self.answer(request):
                asyncio.get_running_loop().call_soon(self.emit, output)

    def emit(self, output: EngineOutput) -> None:
        """Hand an output to its request's sink, unless that was aborted."""
        sink = self.sinks.get(output.request_id)
        if sink is not None:
            sink(output)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.sinks.pop(request_id, None)

    async def close(self) -> None:
        self.is_up = False


def says(text: str, *, ends: str | None = None) -> Answer:
    """Answer every sequence with the bytes of ``text``, one an output, then stop at the end of text (or for reason ``ends``)."""

    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        for index in range(request.index, request.index + request.n):
            yield from spoken(request, text, index=index, ends=ends)

    return answer


def spoken(request: GenerationRequest, text: str, *, index: int = 0, ends: str | None = None) -> Iterable[SequenceOutput]:
    """What an engine puts out when it says ``text``: at most ``max_tokens``, and log-probabilities when asked."""
    params = request.params
    token_ids = [*ids_of(text), *([EOS_ID] if ends is None else [])][: params.max_tokens]
    if not token_ids:
        yield SequenceOutput(
            request_id=request.request_id, index=index, finish_reason="length", prompt_logprobs=scored(request), seed=params.seed or 7
        )
    for place, token_id in enumerate(token_ids):
        is_last = place == len(token_ids) - 1
        is_stop = is_last and token_id == EOS_ID
        yield SequenceOutput(
            request_id=request.request_id,
            index=index,
            token_ids=(token_id,),
            logprobs=(token_logprobs(token_id, params.logprobs),) if params.logprobs is not None else None,
            prompt_logprobs=scored(request) if place == 0 and index == 0 else None,
            finish_reason=("stop" if is_stop else "length") if is_last else None,
            stop_token_id=token_id if is_stop else None,
            num_cached_tokens=2 if place == 0 or is_last else 0,
            seed=(params.seed if params.seed is not None else 7) if place == 0 else None,
            queue_s=0.25 if is_last else 0.0,
        )


def token_logprobs(token_id: int, num_top: int) -> TokenLogprobs:
    """Invent a log-probability: minus a hundredth of the id."""
    top = tuple((other, -other / 100) for other in range(num_top))
    return TokenLogprobs(token_id=token_id, logprob=-token_id / 100, rank=1, top=top)


def scored(request: GenerationRequest) -> tuple[TokenLogprobs | None, ...] | None:
    """Score a prompt as an engine does: from the start asked for, and nothing for position 0."""
    params = request.params
    if params.prompt_logprobs is None:
        return None
    start, num_top = params.prompt_logprobs_start, params.prompt_logprobs
    return tuple(
        None if position == 0 else token_logprobs(request.prompt_token_ids[position], num_top)
        for position in range(start, len(request.prompt_token_ids))
    )
