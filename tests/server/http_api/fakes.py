"""A gateway that answers from a script, and a caller that speaks raw ASGI, so that it can hang up or read slowly."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message

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
    labels=("bad", "good"),
    embedding_size=4,
    is_ready=True,
    status="ready",
    num_replicas=1,
)


def token(token_id: int, text: str, logprob: float) -> results.TokenLogprob:
    return results.TokenLogprob(token_id=token_id, token=text, token_bytes=text.encode(), logprob=logprob)


def position(text: str, logprob: float | None, *top: results.TokenLogprob, offset: int = 0) -> results.PositionLogprobs:
    return results.PositionLogprobs(
        token_id=top[0].token_id if top else 0, token=text, token_bytes=text.encode(), logprob=logprob, top=top, text_offset=offset
    )


def delta(text: str, *, index: int = 0, **more: Any) -> results.CompletionDelta:
    return results.CompletionDelta(
        index=index, text=text, token_ids=(len(text),), usage=results.Usage(prompt_tokens=3, completion_tokens=1), **more
    )


def stream_end() -> results.StreamEnd:
    return results.StreamEnd(usage=USAGE, receipt=RECEIPT, timing=TIMING)


class FakeGateway:
    """Echoes; ``error`` is raised by every task, ``is_holding`` keeps tasks (and streams after their items) waiting for ever.

    ``started`` is set when a task begins to wait, ``ended`` when its work is given up or done.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.is_holding = False
        self.key: str | None = None
        self.ready = True
        self.cards: tuple[results.ModelCard, ...] = (CARD,)
        self.choices: tuple[results.CompletionChoice, ...] | None = None
        self.items: list[StreamItem | Exception] = [delta("Hello"), delta(" world", finish_reason="stop"), stream_end()]
        self.vectors: tuple[tuple[float, ...], ...] = ((1.0, -0.5), (0.1, 3e-8))
        self.calls: list[tuple[Any, CallContext]] = []
        self.refusals: list[tuple[str, str]] = []
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def last_request(self) -> Any:
        return self.calls[-1][0]

    @property
    def last_call(self) -> CallContext:
        return self.calls[-1][1]

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
        choices = self.choices or tuple(
            results.CompletionChoice(index=index, text=f"echo:{prompt}", token_ids=(5, 6), finish_reason="stop", stop_text="\n")
            for index, prompt in enumerate(request.prompts)
        )
        return self._result(request.model, choices, call)

    async def stream_complete(
        self, request: requests.CompletionRequest, call: CallContext, *, resume: requests.Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        await self._enter(request, call, holds=False)
        return self._stream()

    async def chat(self, request: requests.ChatRequest, call: CallContext) -> results.CompletionResult:
        await self._enter(request, call)
        choices = self.choices or (
            results.CompletionChoice(index=0, text=f"re:{request.messages[-1].content}", token_ids=(5,), finish_reason="length"),
        )
        return self._result(request.model, choices, call)

    async def stream_chat(
        self, request: requests.ChatRequest, call: CallContext, *, resume: requests.Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        await self._enter(request, call, holds=False)
        return self._stream()

    async def embed(self, request: requests.EmbedRequest, call: CallContext) -> results.EmbedResult:
        await self._enter(request, call)
        vectors = tuple(self.vectors[index % len(self.vectors)] for index in range(len(request.inputs)))
        return results.EmbedResult(id=call.request_id, model=request.model, vectors=vectors, usage=USAGE, receipt=RECEIPT)

    async def classify(self, request: requests.ClassifyRequest, call: CallContext) -> results.ClassifyResult:
        await self._enter(request, call)
        num_inputs = len(request.pairs or (request.input if isinstance(request.input, list) else [request.input]))
        data = tuple(
            results.Classification(index=index, label="good", score=0.75, probs=(("bad", 0.25), ("good", 0.75)))
            for index in range(num_inputs)
        )
        return results.ClassifyResult(id=call.request_id, model=request.model, data=data, usage=USAGE, receipt=RECEIPT)

    async def few_shot(self, request: requests.FewShotRequest, call: CallContext) -> results.FewShotResult:
        await self._enter(request, call)
        data = tuple(
            results.FewShotAnswer(index=index, text="yes", label="yes", score=0.9, probs=(("yes", 0.9, -0.1), ("no", 0.1, -2.3)))
            if request.labels
            else results.FewShotAnswer(index=index, text="free")
            for index, _ in enumerate(request.queries)
        )
        return results.FewShotResult(id=call.request_id, model=request.model, data=data, usage=USAGE, receipt=RECEIPT)

    async def tokenize(self, request: requests.TokenizeRequest, call: CallContext) -> results.TokenizeResult:
        await self._enter(request, call)
        return results.TokenizeResult(token_ids=(1, 2), tokens=("a", "b"), max_model_len=128)

    async def detokenize(self, request: requests.DetokenizeRequest, call: CallContext) -> str:
        await self._enter(request, call)
        return ",".join(str(token_id) for token_id in request.token_ids)

    async def tokenizer_info(self, model: str, call: CallContext) -> Mapping[str, Any]:
        self.get_model(model)
        return {"eos_token": "</s>", "max_model_len": 128}

    def count_refusal(self, endpoint: str, code: str) -> None:
        self.refusals.append((endpoint, code))

    def list_models(self) -> tuple[results.ModelCard, ...]:
        return self.cards

    def get_model(self, name: str) -> results.ModelCard:
        for card in self.cards:
            if card.id == name:
                return card
        raise ServingError("model_not_found", f"no model is called {name!r}", param="model")

    def is_ready(self) -> bool:
        return self.ready

    def render_metrics(self) -> bytes:
        return b"attendant_requests_total 1.0\n"

    def _result(self, model: str, choices: tuple[results.CompletionChoice, ...], call: CallContext) -> results.CompletionResult:
        return results.CompletionResult(
            id=call.request_id, model=model, created_s=1, choices=choices, usage=USAGE, receipt=RECEIPT, timing=TIMING
        )

    async def _enter(self, request: Any, call: CallContext, *, holds: bool = True) -> None:
        self.calls.append((request, call))
        if self.error is not None:
            raise self.error
        if self.is_holding and holds:
            await self._hold()

    async def _stream(self) -> AsyncIterator[StreamItem]:
        try:
            for item in self.items:
                if isinstance(item, Exception):
                    raise item
                yield item
            if self.is_holding:
                await self._hold()
        finally:
            self.ended.set()

    async def _hold(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class RawCaller:
    """One POST over ASGI whose caller hangs up when told and whose every write can be seen, and waits while ``is_reading`` is clear."""

    def __init__(self, app: ASGIApp, path: str, body: Any, *, headers: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._body = [json.dumps(body).encode()]
        self._path = path
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._hung_up = asyncio.Event()
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.has_response = asyncio.Event()
        self.status = 0
        self.writes: list[bytes] = []

    def send_in_parts(self, parts: list[bytes]) -> None:
        """Send these pieces as the body instead."""
        self._body = parts

    def hang_up(self) -> None:
        self._hung_up.set()

    async def run(self) -> None:
        path = self._path.encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in self._headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(0), "more_body": bool(self._body)}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.writes.append(message.get("body", b""))
        self.has_response.set()
        await self.is_reading.wait()
