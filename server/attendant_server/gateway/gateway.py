"""The gateway: every task of the server, without a transport.

Each method finds the model, takes a permit, and hands the work to the task's own module; whatever ends a call, what it
held is given back and it is counted and logged (``ActiveCall``).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from attendant_server.auth import ApiKeys
from attendant_server.errors import ServingError
from attendant_server.gateway import validation
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.completions import Completions, encode_chat
from attendant_server.gateway.few_shot import FewShot
from attendant_server.gateway.interface import CallContext, StreamItem
from attendant_server.gateway.model_changes import ModelChanges, ModelHost
from attendant_server.gateway.pooling import Pooling
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
    CompletionResult,
    EmbedResult,
    FewShotResult,
    ModelCard,
    TokenizeResult,
)
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.tenants import Tenants
from attendant_server.gateway.toolbox import Toolbox
from attendant_server.metrics import GatewayMetrics, merge_expositions

DRAINING_RETRY_AFTER_S = 2.0


class Gateway:
    """Implements ``GatewayTasks`` over the served models, in the order given. One event loop; not thread-safe.

    With a ``host`` models are loaded and unloaded while it runs, by administrators; ``trusts_all``: where no keys are asked,
    by everybody.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        *,
        api_keys: ApiKeys | None = None,
        tenants: Tenants | None = None,
        metrics: GatewayMetrics | None = None,
        request_timeout_s: float = 600.0,
        host: ModelHost | None = None,
        drain_timeout_s: float = 30.0,
        trusts_all: bool = False,
    ) -> None:
        self._models = dict(models)
        self._trusts_all = trusts_all
        self._api_keys = api_keys or ApiKeys()
        self._tenants = tenants or Tenants()
        self._metrics = metrics or GatewayMetrics()
        self._request_timeout_s = request_timeout_s
        self._changes = (
            None if host is None else ModelChanges(self._models, host, drain_timeout_s=drain_timeout_s, on_gone=self._metrics.forget_model)
        )
        self._toolbox = Toolbox(metrics=self._metrics)
        self._completions = Completions(self._toolbox)
        self._pooling = Pooling(self._toolbox)
        self._few_shot = FewShot(self._toolbox)
        self._num_active = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_draining = False

    def authenticate(self, authorization: str | None) -> str:
        """Return the tenant of an ``Authorization`` value, "" where no keys are asked. Raises invalid_api_key."""
        return self._api_keys.authenticate(authorization)

    def require_admin(self, authorization: str | None) -> None:
        """Raise ``ServingError`` for whoever may not load and unload models, and where nobody may."""
        if self._changes is None:
            raise ServingError("not_found", "this server's models are fixed at its start; start it with --model-directory to change them")
        if self._api_keys.required:
            self._api_keys.require_admin(authorization)
        elif not self._trusts_all:
            raise ServingError(
                "permission_denied",
                "this server asks for no keys and others than this machine reach it, so nobody may change its models; "
                "start it with --api-key-file",
            )

    async def load_model(self, request: LoadModelRequest, call: CallContext) -> ModelCard:
        """Load a model; it goes on loading though the caller leaves."""
        with self._begin(call) as active:
            self._check_running()
            assert self._changes is not None, "require_admin lets nobody in without"
            return await active.deadline.guard(self._changes.load(request.model, request.directory or request.model))

    async def unload_model(self, request: UnloadModelRequest, call: CallContext) -> ModelCard:
        """Take a model away when its calls have ended; it goes though the caller leaves."""
        with self._begin(call) as active:
            self._check_running()
            assert self._changes is not None, "require_admin lets nobody in without"
            return await active.deadline.guard(self._changes.unload(request.model))

    async def complete(self, request: CompletionRequest, call: CallContext) -> CompletionResult:
        """Continue prompts."""
        with self._begin(call) as active:
            return await self._completions.complete(self._admit(request.model, active), request, active)

    async def stream_complete(
        self, request: CompletionRequest, call: CallContext, *, resume: Resume | None = None
    ) -> AsyncIterator[StreamItem]:
        """Admit the request, then stream. Close the iterator (``aclose``) to stop early."""
        return await self._stream(request, call, resume)

    async def chat(self, request: ChatRequest, call: CallContext) -> CompletionResult:
        """Write the next turn."""
        with self._begin(call) as active:
            return await self._completions.complete(self._admit(request.model, active), request, active)

    async def stream_chat(self, request: ChatRequest, call: CallContext, *, resume: Resume | None = None) -> AsyncIterator[StreamItem]:
        """Admit, then stream the next turn. Close the iterator (``aclose``) to stop early."""
        return await self._stream(request, call, resume)

    async def embed(self, request: EmbedRequest, call: CallContext) -> EmbedResult:
        """Turn inputs into vectors."""
        with self._begin(call) as active:
            return await self._pooling.embed(self._admit(request.model, active), request, active)

    async def classify(self, request: ClassifyRequest, call: CallContext) -> ClassifyResult:
        """Label inputs."""
        with self._begin(call) as active:
            return await self._pooling.classify(self._admit(request.model, active), request, active)

    async def few_shot(self, request: FewShotRequest, call: CallContext) -> FewShotResult:
        """Do a task from examples."""
        with self._begin(call) as active:
            return await self._few_shot.run(self._admit(request.model, active), request, active)

    async def tokenize(self, request: TokenizeRequest, call: CallContext) -> TokenizeResult:
        """Show how a model reads a text."""
        with self._begin(call) as active:
            model = self._admit(request.model, active)
            tokenizer = model.tokenizer
            text_pool = self._toolbox.text_pool
            run = text_pool.run if request.messages is None else text_pool.run_chat
            token_ids = await run(active.deadline, _tokenize, model, request)
            info = model.info
            return TokenizeResult(
                token_ids=token_ids,
                tokens=tuple(tokenizer.id_to_token(token_id) or "" for token_id in token_ids),
                max_model_len=info.max_model_len if info is not None else 0,
            )

    async def detokenize(self, request: DetokenizeRequest, call: CallContext) -> str:
        """Turn token ids back into text; marks such as an end of text are left out."""
        with self._begin(call) as active:
            model = self._admit(request.model, active)
            if request.token_ids:
                vocab_size = model.tokenizer.vocab_size
                validation.check_token_ids(request.token_ids, vocab_size=vocab_size, param="token_ids")
            return await self._toolbox.text_pool.run(active.deadline, model.tokenizer.decode, request.token_ids)

    async def tokenizer_info(self, model: str, call: CallContext) -> Mapping[str, Any]:
        """Describe a model's tokenizer."""
        with self._begin(call) as active:
            return self._admit(model, active).tokenizer.info()

    def count_refusal(self, endpoint: str, code: str) -> None:
        """Count a request that a transport refused before a task had it."""
        self._metrics.request_refused(endpoint, code)

    def list_models(self) -> tuple[ModelCard, ...]:
        """Describe the served models, in order."""
        return tuple(model.card() for model in self._models.values())

    def get_model(self, name: str) -> ModelCard:
        """Describe one served model. Raises model_not_found."""
        return self._find(name).card()

    def is_ready(self) -> bool:
        """Tell whether every model has a replica that answers, or that the next request wakes, and nothing is draining."""
        return not self._is_draining and all(
            model.replicas.is_available for model in self._models.values() if (model.parent or model).is_expected
        )

    def render_metrics(self) -> bytes:
        """Return the metrics of this gateway and of every replica that is linked now."""
        texts = [link.metrics_text for model in self._models.values() if model.parent is None for link in model.replicas.links]
        return merge_expositions([self._metrics.render(num_tasks=len(asyncio.all_tasks())), *texts])

    @property
    def num_active(self) -> int:
        """Calls that have not ended."""
        return self._num_active

    def start_draining(self) -> None:
        """Refuse new calls from now on; those that run go on."""
        self._is_draining = True

    async def wait_idle(self) -> None:
        """Return when no call is left; give it a timeout."""
        await self._is_idle.wait()

    async def stop_changes(self) -> None:
        """Give up loads and unloads that have not ended."""
        if self._changes is not None:
            await self._changes.close()

    def close(self) -> None:
        """Let the text threads go; the links are their owner's to close."""
        self._toolbox.text_pool.close()

    def _begin(self, call: CallContext) -> ActiveCall:
        self._num_active += 1
        self._is_idle.clear()
        return ActiveCall(call, metrics=self._metrics, request_timeout_s=self._request_timeout_s, on_end=self._ended)

    def _ended(self) -> None:
        self._num_active -= 1
        if self._num_active == 0:
            self._is_idle.set()

    def _find(self, name: str) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise validation.model_not_found(name, self._models)
        return model

    def _admit(self, name: str, active: ActiveCall) -> ServedModel:
        """Return the model with a permit for ``active``. Raises model_not_found, not_ready, queue_full, deadline_exceeded."""
        model = self._find(name)
        active.model = model.name
        self._check_running()
        model.check_open()
        active.deadline.check()
        tenant = active.context.tenant
        self._tenants.check(tenant)
        active.tenant_weight = self._tenants.weight(tenant)
        active.hold(model.admission.take(tenant, active.tenant_weight).release)
        active.hold(lambda: self._tenants.spend(tenant, active.usage.prompt_tokens + active.usage.completion_tokens))
        return model

    def _check_running(self) -> None:
        if self._is_draining:
            raise ServingError(
                "not_ready", "the server is shutting down and takes no new requests; try again", retry_after_s=DRAINING_RETRY_AFTER_S
            )

    async def _stream(
        self, request: CompletionRequest | ChatRequest, call: CallContext, resume: Resume | None
    ) -> AsyncIterator[StreamItem]:
        active = self._begin(call)
        try:
            return await self._completions.stream(self._admit(request.model, active), request, active, resume)
        except BaseException as error:
            shown = active.end(error)
            if shown is None or shown is error:
                raise
            raise shown from None


def _tokenize(model: ServedModel, request: TokenizeRequest) -> tuple[int, ...]:
    if request.messages is None:
        return model.tokenizer.encode(request.text, add_special_tokens=request.add_special_tokens).ids
    return encode_chat(
        model, request.messages, add_generation_prompt=request.add_generation_prompt, add_special_tokens=request.add_special_tokens
    ).token_ids
