"""Engines on Ray Serve that come and go while the application runs: a gateway's ``ModelHost``.

The application is handed to Serve once more with other models. What is the same as before has the version that it had, so
Serve leaves it alone, starts the new model's engines, and ends those of one that is gone. The list is kept in Ray's own
store, where the next gateway finds it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from ray import serve
from ray.experimental import internal_kv
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from attendant_server.config import ModelSettings, Settings
from attendant_server.errors import ServingError
from attendant_server.gateway.served_model import ServedModel
from attendant_server.hosting.adapter_paths import with_adapters
from attendant_server.hosting.blueprint import Blueprint
from attendant_server.hosting.engine_names import engine_deployment_name
from attendant_server.hosting.link_pool import LinkPool
from attendant_server.hosting.model_directory import ModelDirectory, read_model
from attendant_server.hosting.ray_failures import what_failed

_POLL_S = 0.25
_MODELS = TypeAdapter(tuple[ModelSettings, ...])

Handle = DeploymentHandle[Any]
ApplicationOf = Callable[[Settings, Blueprint], Application]
"""Makes the application with the models of the settings."""


def stored_models(settings: Settings, blueprint: Blueprint) -> tuple[ModelSettings, ...]:
    """Return the models that the application has now: those of the start, unless a gateway has changed them."""
    raw = internal_kv._internal_kv_get(_key(blueprint))
    return _MODELS.validate_json(raw) if raw else settings.models


def handle_of(model: str, app: str) -> Handle:
    """Return a handle of a model's engines, which Serve may know only in a moment."""
    return serve.get_deployment_handle(engine_deployment_name(model), app, _check_exists=False)


class RayModels:
    """Changes the application that ``blueprint`` describes.

    ``adopt`` is told of a new model and the handle of its engines, ``abandon`` of one whose engines are gone.
    """

    def __init__(
        self,
        settings: Settings,
        blueprint: Blueprint,
        links: LinkPool,
        *,
        application_of: ApplicationOf,
        adopt: Callable[[ServedModel, Handle], None],
        abandon: Callable[[ServedModel], None],
    ) -> None:
        assert settings.model_directory is not None, "nobody is a host without one"
        self._settings = settings
        self._blueprint = blueprint
        self._application_of = application_of
        self._links = links
        self._adopt = adopt
        self._abandon = abandon
        self._directory = ModelDirectory(settings.model_directory)
        self._models = {model.name: model for model in settings.models}
        self._app = serve.get_replica_context().app_name

    async def open(self, name: str, directory: str) -> Mapping[str, ServedModel]:
        """Begin to load a model of the model directory. Raises ``ServingError`` or ``EngineError``."""
        path = self._directory.find(directory)
        if self._blueprint.engine_options.get("num_gpus"):
            raise ServingError(
                "unsupported_parameter",
                "on Ray with GPUs the models of the start have reserved them all; deploy the application anew with another list of models",
                param="model",
            )
        model, tokenizer = await asyncio.to_thread(read_model, name, path)
        served = ServedModel(name, tokenizer=tokenizer, max_queue=self._settings.max_queue)
        deployment = engine_deployment_name(name)
        self._links.add(deployment, served)
        try:
            await self._deploy({**self._models, name: model})
        except BaseException:
            await self._links.remove(deployment)
            raise
        self._adopt(served, handle_of(name, self._app))
        return with_adapters({name: served}, self._settings.model_copy(update={"models": (model,)}))

    async def wait_loaded(self, model: ServedModel) -> None:
        """Return when a replica is ready, or when Serve has given up; the model's ``failure`` then says why."""
        while not model.replicas.num_ready:
            model.failure = await asyncio.to_thread(self._what_failed, model.name)
            if model.failure:
                await self.close(model)
                return
            await asyncio.sleep(_POLL_S)

    async def close(self, model: ServedModel) -> None:
        """Have a model's engines ended; Serve gives them time to finish."""
        if model.name not in self._models:
            return
        self._abandon(model)
        await self._links.remove(engine_deployment_name(model.name))
        await self._deploy({name: other for name, other in self._models.items() if name != model.name})

    async def _deploy(self, models: dict[str, ModelSettings]) -> None:
        # A deployment that was handed over half is worse than one too many.
        await asyncio.shield(asyncio.to_thread(self._hand_over, tuple(models.values())))
        self._models = models

    def _hand_over(self, models: tuple[ModelSettings, ...]) -> None:
        application = self._application_of(self._settings.model_copy(update={"models": models}), self._blueprint)
        target = serve.RunTarget(target=application, name=self._app, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        internal_kv._internal_kv_put(_key(self._blueprint), _MODELS.dump_json(models))

    def _what_failed(self, name: str) -> str:
        """Return why a model's engines do not start, "" while they may yet."""
        deployment = serve.status().applications[self._app].deployments.get(engine_deployment_name(name))
        if deployment is None or deployment.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
            return ""
        return what_failed(deployment.message)


def _key(blueprint: Blueprint) -> bytes:
    return f"attendant-models-{blueprint.release}".encode()
