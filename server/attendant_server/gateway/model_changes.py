"""Models that come and go while the server runs: one change at a time, and none that touches another model.

Where engines run and where checkpoints lie is the host's business. A change goes on though its caller leaves.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from attendant_engine.errors import EngineError
from attendant_server.errors import ServingError
from attendant_server.gateway import validation
from attendant_server.gateway.results import ModelCard
from attendant_server.gateway.served_model import ServedModel
from attendant_server.logging import log_event

_log = logging.getLogger(__name__)
_POLL_S = 0.02
MAX_WAITING = 8
"""Changes that wait for their turn; whoever asks for more is told to come back."""


class ModelHost(Protocol):
    """Runs the engines of models that come while the server runs."""

    async def open(self, name: str, directory: str) -> Mapping[str, ServedModel]:
        """Begin to load; return the model, which is the first, and its adapters by name. Raises ``ServingError`` or ``EngineError``."""
        ...

    async def wait_loaded(self, model: ServedModel) -> None:
        """Return when loading has ended, well or not; the model's replicas then say how."""
        ...

    async def close(self, model: ServedModel) -> None:
        """End the engines of a model that ``open`` or the start of the server has brought."""
        ...


class ModelChanges:
    """Changes ``models``, the gateway's own. Calls that a model has get ``drain_timeout_s`` to end before it goes.

    ``on_gone`` is told the name of every model and adapter that has gone.
    """

    def __init__(self, models: dict[str, ServedModel], host: ModelHost, *, drain_timeout_s: float, on_gone: Callable[[str], None]) -> None:
        self._models = models
        self._host = host
        self._drain_timeout_s = drain_timeout_s
        self._on_gone = on_gone
        self._turn = asyncio.Lock()
        self._running: dict[str, asyncio.Task[ModelCard]] = {}

    async def load(self, name: str, directory: str) -> ModelCard:
        """Load a model and return its card. Raises ``ServingError`` with the reason where it cannot be, and leaves the others alone."""
        before = self._models.get(name)
        if before is not None and (before.parent is not None or before.change != "failed"):
            raise ServingError("invalid_value", f"'{name}' is served already; unload it first, or choose another name", param="model")
        return await self._run(name, self._load(name, directory))

    async def unload(self, name: str) -> ModelCard:
        """Take a model away when its calls have ended, and return what it was. Raises ``ServingError`` for one that is not there."""
        model = self._models.get(name)
        if model is None:
            raise validation.model_not_found(name, self._models)
        if model.parent is not None:
            raise ServingError("invalid_value", f"'{name}' is an adapter of '{model.parent.name}'; unload that", param="model")
        return await self._run(name, self._unload(model))

    async def close(self) -> None:
        """Give up what has not ended."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, name: str, change: Coroutine[Any, Any, ModelCard]) -> ModelCard:
        if name in self._running or len(self._running) >= MAX_WAITING:
            change.close()
            text = (
                f"'{name}' is being loaded or unloaded right now" if name in self._running else "other models are being loaded or unloaded"
            )
            raise ServingError("not_ready", f"{text}; try again when that has ended")
        task = self._running[name] = asyncio.ensure_future(change)
        task.add_done_callback(lambda _: self._running.pop(name))
        return await asyncio.shield(task)

    async def _load(self, name: str, directory: str) -> ModelCard:
        async with self._turn:
            if name in self._models:
                await self._drop(self._models[name])  # one that failed before
            served = await self._open(name, directory)
            model = next(iter(served.values()))
            model.change, model.is_expected = "loading", False
            self._models.update(served)
            log_event(_log, logging.INFO, "a model is being loaded", model=name)
            await self._host.wait_loaded(model)
            if not model.replicas.is_available:
                model.change = "failed"
                log_event(_log, logging.ERROR, "a model could not be loaded", model=name, status=model.status)
                raise ServingError("invalid_value", f"'{name}' cannot be served: {model.status}", param="directory")
            model.change, model.is_expected = "", True
            log_event(_log, logging.INFO, "a model has been loaded", model=name)
            return model.card()

    async def _open(self, name: str, directory: str) -> Mapping[str, ServedModel]:
        try:
            served = await self._host.open(name, directory)
        except EngineError as error:
            raise ServingError("invalid_value", error.message, param="directory") from None
        taken = sorted(set(served) & set(self._models))
        if taken:
            await self._host.close(next(iter(served.values())))
            raise ServingError("invalid_value", f"its adapter would be called '{taken[0]}', as another is already", param="model")
        return served

    async def _unload(self, model: ServedModel) -> ModelCard:
        async with self._turn:
            card = model.card()
            model.change, model.is_expected = "draining", False
            log_event(_log, logging.INFO, "a model is being unloaded", model=model.name, calls=model.admission.num_held)
            try:
                async with asyncio.timeout(self._drain_timeout_s):
                    while model.admission.num_held:
                        await asyncio.sleep(_POLL_S)
            except TimeoutError:
                log_event(_log, logging.WARNING, "calls are cut off with their model", model=model.name, calls=model.admission.num_held)
            await self._drop(model)
            return card

    async def _drop(self, model: ServedModel) -> None:
        await self._host.close(model)
        for name in [name for name, other in self._models.items() if other is model or other.parent is model]:
            del self._models[name]
            self._on_gone(name)
        log_event(_log, logging.INFO, "a model has been unloaded", model=model.name)
