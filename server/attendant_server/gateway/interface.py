"""What a transport may ask of the gateway. Transports are written and tested against this, hosting plugs the real one in.

Every method raises ``ServingError`` for anything that ends a request. Cancelling the awaiting task (or closing the
iterator) aborts the work; what it held is free within one engine step.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from attendant_server.gateway.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbedRequest,
    FewShotRequest,
    LoadModelRequest,
    Resume,
    TokenizeRequest,
    UnloadModelRequest,
)
from attendant_server.gateway.results import (
    ClassifyResult,
    CompletionDelta,
    CompletionResult,
    EmbedResult,
    FewShotResult,
    ModelCard,
    StreamEnd,
    TokenizeResult,
)

StreamItem = CompletionDelta | StreamEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What a transport knows about a call: ``deadline_s`` is on ``time.monotonic``'s clock, None for none of the caller's own."""

    request_id: str
    endpoint: str
    tenant: str = ""
    deadline_s: float | None = None


class GatewayTasks(Protocol):
    """The tasks, without a transport."""

    def authenticate(self, authorization: str | None) -> str:
        """Return the tenant of an ``Authorization`` value ("Bearer KEY"), "" where no keys are asked. Constant time."""
        ...

    def require_admin(self, authorization: str | None) -> None:
        """Raise ``ServingError`` for whoever may not load and unload models, and where nobody may. Constant time."""
        ...

    async def load_model(self, request: LoadModelRequest, call: CallContext) -> ModelCard:
        """Load a model; return when it is ready. Whoever asks was let in by ``require_admin``."""
        ...

    async def unload_model(self, request: UnloadModelRequest, call: CallContext) -> ModelCard:
        """Take a model away; return when its calls have ended. Whoever asks was let in by ``require_admin``."""
        ...

    async def complete(self, request: CompletionRequest, call: CallContext) -> CompletionResult:
        """Continue prompts."""
        ...

    async def stream_complete(
        self, request: CompletionRequest, call: CallContext, *, resume: Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        """Admit the request (all errors of validation and admission come from this await), then stream; ``StreamEnd`` is last.

        With ``resume`` a stream of the same request, lost with its gateway, goes on behind what had come of it.
        """
        ...

    async def chat(self, request: ChatRequest, call: CallContext) -> CompletionResult:
        """Write the next turn."""
        ...

    async def stream_chat(self, request: ChatRequest, call: CallContext, *, resume: Resume | None = None) -> AsyncIterator[StreamItem]:
        """Admit, then stream the next turn."""
        ...

    async def embed(self, request: EmbedRequest, call: CallContext) -> EmbedResult:
        """Turn inputs into vectors."""
        ...

    async def classify(self, request: ClassifyRequest, call: CallContext) -> ClassifyResult:
        """Label inputs."""
        ...

    async def few_shot(self, request: FewShotRequest, call: CallContext) -> FewShotResult:
        """Do a task from examples."""
        ...

    async def tokenize(self, request: TokenizeRequest, call: CallContext) -> TokenizeResult:
        """Show how a model reads a text."""
        ...

    async def detokenize(self, request: DetokenizeRequest, call: CallContext) -> str:
        """Turn token ids back into text."""
        ...

    async def tokenizer_info(self, model: str, call: CallContext) -> Mapping[str, Any]:
        """Describe a model's tokenizer, for ``/tokenizer_info``."""
        ...

    def count_refusal(self, endpoint: str, code: str) -> None:
        """Count a request that a transport refused before a task had it; ``endpoint`` is one of a few, never a caller's text."""
        ...

    def list_models(self) -> tuple[ModelCard, ...]:
        """Served models, in the order of the command line."""
        ...

    def get_model(self, name: str) -> ModelCard:
        """One served model; model_not_found otherwise."""
        ...

    def is_ready(self) -> bool:
        """True when every model has a replica that answers and nothing is draining."""
        ...

    def render_metrics(self) -> bytes:
        """Metrics of the whole application as Prometheus text (see ``prometheus_client.CONTENT_TYPE_LATEST``)."""
        ...
