"""From what a user calls a model to the directory that it lies in: a path, a bundled name, or a hub id.

The hub is asked only for what is neither; what was fetched once is found again without a network.
"""

import difflib
import os.path
import re
from dataclasses import dataclass
from pathlib import Path

PREFERRED = ("attendant-gpt", "attendant-minilm", "stories260k", "tiny-encoder", "tiny-classifier")
"""Order of the bundled models; others follow by name."""

_SERVED_BY_DEFAULT = {"attendant-gpt": ("stories260k",), "attendant-minilm": ("tiny-encoder", "tiny-classifier")}
"""What is served when nothing was named, and what stands in where an installation has left it out."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "1_Pooling/*.json")


class ModelPathError(Exception):
    """No model can be found under a name; the message says what was tried and what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPath:
    """A model's serving name and its directory."""

    name: str
    path: Path


def bundled_models() -> dict[str, Path]:
    """Return the bundled models by name, those of the checkout or those that were installed, in serving order."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "models", here.parents[1] / "models"):
        found = {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
        if found:
            first = [name for name in PREFERRED if name in found]
            return {name: found[name] for name in [*first, *(name for name in found if name not in PREFERRED)]}
    return {}


def default_models() -> dict[str, Path]:
    """Return the bundled models that are served when nothing was named."""
    bundled = bundled_models()
    wanted = [name for first, others in _SERVED_BY_DEFAULT.items() for name in ((first,) if first in bundled else others)]
    return {name: bundled[name] for name in wanted if name in bundled}


def resolve_models(specs: list[str]) -> tuple[ModelPath, ...]:
    """Return a model for each ``[NAME=]MODEL``, or the default ones for none. Raises ``ModelPathError``."""
    if not specs:
        bundled = tuple(ModelPath(name=name, path=path) for name, path in default_models().items())
        if not bundled:
            raise ModelPathError("There are no bundled models in this installation; name a model to serve.")
        return bundled
    models = tuple(resolve_model(spec) for spec in specs)
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ModelPathError(f"Two models would be called {name!r}; give one another name with NAME=MODEL.")
    return models


def resolve_model(spec: str) -> ModelPath:
    """Return the model of one ``[NAME=]MODEL``. Raises ``ModelPathError``."""
    name, model = _split(spec)
    if not model:
        raise ModelPathError(f"{spec!r} names no model; write NAME=MODEL, or MODEL alone.")
    directory = Path(os.path.expanduser(model))
    bundled = bundled_models()
    if directory.is_dir():
        path = directory.resolve()
        if not (path / "config.json").is_file():
            raise ModelPathError(f"The directory {model} has no config.json; a model is a directory in Hugging Face layout.")
    elif model in bundled:
        path = bundled[model]
    elif directory.exists():
        raise ModelPathError(f"{model} is a file; a model is a directory in Hugging Face layout.")
    else:
        path = _from_hub(model, tuple(bundled))
    return ModelPath(name=name or _default_name(model, path), path=path)


def _split(spec: str) -> tuple[str | None, str]:
    """``NAME=MODEL``, unless the ``=`` is part of a path."""
    name, equals, model = spec.partition("=")
    if equals and name and not any(character in name for character in "/\\.~"):
        return name, model
    return None, spec


def _default_name(model: str, path: Path) -> str:
    if Path(os.path.expanduser(model)).is_dir():
        return path.name
    return model.rsplit("/", 1)[-1]


def _from_hub(model: str, bundled: tuple[str, ...]) -> Path:
    known = f"the bundled models are {', '.join(bundled)}" if bundled else "there are no bundled models here"
    close = difflib.get_close_matches(model, bundled, n=1)
    if _HUB_ID.match(model) is None or (close and "/" not in model):
        hint = f"did you mean {close[0]!r}?" if close else f"{known}."
        raise ModelPathError(f"There is no model directory {model!r}; {hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(_HUB_FILES), local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        pass
    try:
        return Path(snapshot_download(model, allow_patterns=list(_HUB_FILES), etag_timeout=5))
    except Exception as error:
        # Whatever the hub's library raises (it has dozens of kinds), the model is not here; its first line says why.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelPathError(
            f"{model!r} is no directory and no bundled model, and could not be fetched from the hub ({reason}); {known}. "
            "Give a directory in Hugging Face layout, or connect to a network."
        ) from error
