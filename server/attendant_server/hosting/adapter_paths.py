"""Which adapter is served on which model: those that were named, and those that lie in a model's own directory.

An adapter on disk is a directory with ``adapter_config.json``; whether it fits, the engine says when it loads it.
"""

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path

from attendant_engine.errors import CheckpointError
from attendant_engine.weights.adapter_config import CONFIG_FILE, base_model_of
from attendant_server.config import AdapterSettings, ModelSettings, Settings
from attendant_server.gateway.served_model import ServedModel
from attendant_server.hosting.model_paths import ModelPathError

FOLDER = "adapters"
"""Of a model's directory; each adapter in it is served as the model's name, a hyphen and its own."""


def assign_adapters(models: Sequence[ModelSettings], named: Sequence[AdapterSettings]) -> tuple[ModelSettings, ...]:
    """Return the models with all their adapters. Raises ``ModelPathError`` for one without a directory, a model or a name of its own."""
    found = {model.name: [*model.adapters, *_own_adapters(model)] for model in models}
    for adapter in named:
        found[_parent_of(adapter, models)].append(adapter.model_copy(update={"path": str(_directory(adapter))}))
    names = [*found, *(adapter.name for adapters in found.values() for adapter in adapters)]
    for name in names:
        if names.count(name) > 1:
            raise ModelPathError(f"Two models or adapters would be called {name!r}; give one another name with NAME=.")
    return tuple(model.model_copy(update={"adapters": tuple(found[model.name])}) for model in models)


def with_adapters(models: Mapping[str, ServedModel], settings: Settings) -> dict[str, ServedModel]:
    """Return the served models and, each behind its own, their adapters, by name."""
    served: dict[str, ServedModel] = {}
    for model in settings.models:
        served[model.name] = models[model.name]
        served |= {adapter.name: models[model.name].adapted(adapter.name) for adapter in model.adapters}
    return served


def _own_adapters(model: ModelSettings) -> list[AdapterSettings]:
    taken = {adapter.path for adapter in model.adapters}
    folders = [path.parent for path in sorted(Path(model.path, FOLDER).glob(f"*/{CONFIG_FILE}"))]
    return [AdapterSettings(name=f"{model.name}-{path.name}", path=str(path)) for path in folders if str(path) not in taken]


def _directory(adapter: AdapterSettings) -> Path:
    path = Path(os.path.expanduser(adapter.path))
    if not (path / CONFIG_FILE).is_file():
        raise ModelPathError(f"The adapter {adapter.name!r} is to lie in {adapter.path}, where there is no {CONFIG_FILE}.")
    return path.resolve()


def _parent_of(adapter: AdapterSettings, models: Sequence[ModelSettings]) -> str:
    """Return the model that an adapter is for: the only one, or the one that it names as its base."""
    if len(models) == 1:
        return models[0].name
    try:
        base = base_model_of(_directory(adapter)).rstrip("/").rpartition("/")[2]
    except CheckpointError as error:
        raise ModelPathError(f"Adapter {adapter.name!r}: {error}") from None
    for model in models:
        if base and base in (model.name, Path(model.path).name):
            return model.name
    served = ", ".join(model.name for model in models) or "none"
    raise ModelPathError(
        f"The adapter {adapter.name!r} names {base or 'nothing'!r} as its base, and the served models are {served}; serve its model "
        "alone, or under that name with NAME=MODEL."
    )
