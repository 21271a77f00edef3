"""A gateway that answers from a script and remembers what it was asked; the transport is all that is real."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from attendant_server.errors import ServingError
from attendant_server.gateway import requests, results
from attendant_server.gateway.interface import CallContext, StreamItem

RECEIPT = results.Receipt(
    model_digest="d" * 64, engine_version="0.1.0", dtype="float32", device_kind="cpu", seed=7, quantization="int8", kernels="avx2"
)
TIMING = results.Timing(queue_s=0.25, prefill_s=0.5, decode_s=1.0, total_s=1.75)
USAGE = results.Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2)
CARD = results.ModelCard(
    id="tiny",
    kind="decoder",
    tasks=("completion", "chat", "few-shot"),
    family="llama",
    max_model_len=128,
    vocab_size=512,
    digest="d" * 64,
    dtype="float32",
    device_kind="cpu",
    is_ready=True,
    status="ready",
    num_replicas=2,
)


class FakeGateway:
    """Echoes prompts. ``error`` is raised by every task; ``key`` is asked for when set; ``hold`` keeps tasks waiting.

    ``started`` and ``ended`` are set when a task begins waiting and when its work is given up or done.
    ``errors`` are raised by the next calls, one each, before anything else. A stream breaks before each piece that
    ``breaks_before`` names, once; ``token`` is what it is to be resumed by, and ``resumes`` are the wishes to.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.errors: list[Exception] = []
        self.key: str | None = None
        self.is_holding = False
        self.num_pieces = 2
        self.piece_text = "piece"
        self.fails_after: int | None = None
        self.is_cut_short = False
        self.num_cut_short = 0
        self.breaks_before: list[int] = []
        self.token = b""
        self.resumes: list[requests.Resume | None] = []
        self.cards = [CARD]
        self.ready = True
        self.calls: list[tuple[Any, CallContext]] = []
        self.refusals: list[tuple[str, str]] = []
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    def authenticate(self, authorization: str | None) -> str:
        if self.key is None:
            return ""
        if authorization != f"Bearer {self.key}":
            raise ServingError("invalid_api_key", "the API key is not valid")
        return "tenant-a"

    def require_admin(self, authorization: str | None) -> None:
        if self.key is not None and authorization != f"Bearer {self.key}":
            raise ServingError("permission_denied", "this key may not do that")

    async def load_model(self, request: requests.LoadModelRequest, call: CallContext) -> results.ModelCard:
        await self._enter(request, call)
        return replace(self.cards[0], id=request.model)

    async def unload_model(self, request: requests.UnloadModelRequest, call: CallContext) -> results.ModelCard:
        await self._enter(request, call)
        return replace(self.cards[0], id=request.model)

    async def complete(self, request: requests.CompletionRequest, call: CallContext) -> results.CompletionResult:
        await self._enter(request, call)
        choices = tuple(
            results.CompletionChoice(
                index=index, text=f"echo:{prompt}", token_ids=(5, 6), finish_reason="stop", stop_text="\n", logprobs=_logprobs(request)
            )
            for index, prompt in enumerate(request.prompts)
        )
        return results.CompletionResult(
            id="x", model=request.model, created_s=1, choices=choices, usage=USAGE, receipt=RECEIPT, timing=TIMING
        )

    async def stream_complete(
        self, request: requests.CompletionRequest, call: CallContext, *, resume: requests.Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        self.resumes.append(resume)
        await self._enter(request, call)
        return self._pieces(len(resume.outputs[0].token_ids) if resume is not None and resume.outputs else 0)

    async def chat(self, request: requests.ChatRequest, call: CallContext) -> results.CompletionResult:
        await self._enter(request, call)
        choice = results.CompletionChoice(index=0, text=f"re:{request.messages[-1].content}", token_ids=(5,), finish_reason="length")
        return results.CompletionResult(
            id="x", model=request.model, created_s=1, choices=(choice,), usage=USAGE, receipt=RECEIPT, timing=TIMING
        )

    async def stream_chat(
        self, request: requests.ChatRequest, call: CallContext, *, resume: requests.Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        self.resumes.append(resume)
        await self._enter(request, call)
        return self._pieces(len(resume.outputs[0].token_ids) if resume is not None and resume.outputs else 0)

    async def embed(self, request: requests.EmbedRequest, call: CallContext) -> results.EmbedResult:
        await self._enter(request, call)
        vectors = tuple((float(index), 0.5) for index, _ in enumerate(request.inputs))
        return results.EmbedResult(id="x", model=request.model, vectors=vectors, usage=USAGE, receipt=RECEIPT)

    async def classify(self, request: requests.ClassifyRequest, call: CallContext) -> results.ClassifyResult:
        await self._enter(request, call)
        num_inputs = len(request.pairs or (request.input if isinstance(request.input, list) else [request.input]))
        data = tuple(
            results.Classification(index=index, label="good", score=0.75, probs=(("bad", 0.25), ("good", 0.75)))
            for index in range(num_inputs)
        )
        return results.ClassifyResult(id="x", model=request.model, data=data, usage=USAGE, receipt=RECEIPT)

    async def few_shot(self, request: requests.FewShotRequest, call: CallContext) -> results.FewShotResult:
        await self._enter(request, call)
        data = tuple(
            results.FewShotAnswer(index=index, text="yes", label="yes", score=0.9, probs=(("yes", 0.9, -0.1), ("no", 0.1, -2.3)))
            if request.labels
            else results.FewShotAnswer(index=index, text="free")
            for index, _ in enumerate(request.queries)
        )
        return results.FewShotResult(id="x", model=request.model, data=data, usage=USAGE, receipt=RECEIPT)

    async def tokenize(self, request: requests.TokenizeRequest, call: CallContext) -> results.TokenizeResult:
        await self._enter(request, call)
        return results.TokenizeResult(token_ids=(1, 2), tokens=("a", "b"), max_model_len=128)

    async def detokenize(self, request: requests.DetokenizeRequest, call: CallContext) -> str:
        await self._enter(request, call)
        return ",".join(str(token_id) for token_id in request.token_ids)

    async def tokenizer_info(self, model: str, call: CallContext) -> Mapping[str, Any]:
        return {}

    def count_refusal(self, endpoint: str, code: str) -> None:
        self.refusals.append((endpoint, code))

    def list_models(self) -> tuple[results.ModelCard, ...]:
        return tuple(self.cards)

    def get_model(self, name: str) -> results.ModelCard:
        for card in self.cards:
            if card.id == name:
                return card
        raise ServingError("model_not_found", f"no model is called {name!r}", param="model")

    def is_ready(self) -> bool:
        return self.ready

    def render_metrics(self) -> bytes:
        return b""

    async def _enter(self, request: Any, call: CallContext) -> None:
        self.calls.append((request, call))
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        if self.is_holding:
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()

    async def _pieces(self, first: int) -> AsyncIterator[StreamItem]:
        try:
            for index in range(first, self.num_pieces):
                if index in self.breaks_before:
                    self.breaks_before.remove(index)
                    raise ServingError("not_ready", "the replica was lost", retry_after_s=0.001)
                if index == self.fails_after:
                    raise ServingError("not_ready", "the replica was lost")
                is_last = index == self.num_pieces - 1
                self.started.set()
                yield results.CompletionDelta(
                    index=0,
                    text=f"{self.piece_text}{index}",
                    token_ids=(index,),
                    usage=results.Usage(prompt_tokens=3, completion_tokens=index + 1),
                    finish_reason="length" if is_last else None,
                    resume_token=self.token if index == first else b"",
                )
            self.num_cut_short -= 1
            if not self.is_cut_short and self.num_cut_short < 0:
                yield results.StreamEnd(usage=USAGE, receipt=RECEIPT, timing=TIMING)
        finally:
            self.ended.set()


def _logprobs(request: requests.CompletionRequest) -> tuple[results.PositionLogprobs, ...] | None:
    if request.logprobs is None:
        return None
    top = (results.TokenLogprob(token_id=5, token="a", token_bytes=b"a", logprob=-0.5),)
    return (
        results.PositionLogprobs(token_id=5, token="a", token_bytes=b"a", logprob=-0.5, top=top, text_offset=0),
        results.PositionLogprobs(token_id=6, token="b", token_bytes=b"b", logprob=None, text_offset=1),
    )
