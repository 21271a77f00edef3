"""One ``Settings`` out of flags, environment, a YAML file and defaults, in that order of precedence.

Every mistake is reported with where it was made: the flag, the variable, or the key of the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from attendant_server.config import Settings
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.model_paths import resolve_models
from attendant_server.violations import did_you_mean, violations_of

PREFIX = "ATTENDANT_"
CLIENT_VARIABLES = ("ATTENDANT_URL", "ATTENDANT_API_KEY", "ATTENDANT_CONFIG")
"""Variables of other commands, and the one that names the file."""

# Kubernetes tells every container of a Service called "attendant" in variables of this form.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_.*)?)$|_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?$")


class SettingsError(Exception):
    """Settings that cannot be used; the message is a sentence that names the source."""


def collect_settings(
    flags: Mapping[str, Any], *, environment: Mapping[str, str], file: Path | None, models: list[str] | None = None
) -> Settings:
    """Merge and check. ``flags`` by field name, None for one that was not given; ``models`` None asks for no model at all.

    ``models`` has the ``[NAME=]MODEL`` arguments; without any, those of environment or file are taken, else the bundled
    ones. Raises ``SettingsError``, or ``ModelPathError`` for a model that cannot be found.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, (value, source) in {
        **_read_file(file),
        **_read_environment(environment),
        **{key: (value, "--" + key.replace("_", "-")) for key, value in flags.items() if value is not None},
    }.items():
        merged[key], sources[key] = value, source
    named = merged.pop("models", None)
    if "adapter" in merged:
        merged["adapter"] = [_adapter(spec, sources["adapter"]) for spec in _model_specs(merged["adapter"], sources["adapter"])]
    settings = _check(merged, sources)
    if models is None:
        return settings
    found = resolve_models(models or _model_specs(named, sources.get("models", "")))
    checked = _check({**merged, "models": [{"name": model.name, "path": str(model.path)} for model in found]}, sources)
    return checked.model_copy(update={"models": assign_adapters(checked.models, checked.adapter)})


def _read_file(file: Path | None) -> dict[str, tuple[Any, str]]:
    if file is None:
        return {}
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {file} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"The settings file {file} is not valid YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"The settings file {file} must hold keys and values, for example 'http_port: 8000'.")
    for key in data:
        if key not in Settings.model_fields:
            raise SettingsError(f"{str(key)!r} in {file} is not a setting{did_you_mean(str(key), Settings.model_fields)}.")
    return {key: (value, f"{key} in {file}") for key, value in data.items() if value is not None}


def _read_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES:
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key in Settings.model_fields:
            found[key] = (value, variable)
        elif not (_SERVICE_LINK.search(variable) or value.startswith(("tcp://", "udp://"))):
            known = [PREFIX + name.upper() for name in Settings.model_fields]
            raise SettingsError(f"The environment variable {variable} is not a setting{did_you_mean(variable, known)}.")
    return found


def _model_specs(named: Any, source: str) -> list[str]:
    """``[NAME=]MODEL`` texts from a file's list (of texts, or of name and path) or from a variable's commas."""
    if named is None:
        return []
    if isinstance(named, str):
        return [spec.strip() for spec in named.split(",") if spec.strip()]
    specs = []
    for item in named if isinstance(named, list) else [named]:
        if isinstance(item, str):
            specs.append(item)
        elif isinstance(item, dict) and set(item) == {"name", "path"} and all(isinstance(value, str) for value in item.values()):
            specs.append(f"{item['name']}={item['path']}")
        else:
            raise SettingsError(f"{source} must be a list of NAME=MODEL texts, or of objects with name and path.")
    return specs


def _adapter(spec: str, source: str) -> dict[str, str]:
    name, equals, path = spec.partition("=")
    if not (name and equals and path):
        raise SettingsError(f"{source} has {spec!r}; write NAME=DIR, the name to serve the adapter as and its directory.")
    return {"name": name, "path": path}


def _check(merged: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    try:
        return Settings.model_validate(dict(merged))
    except ValidationError as error:
        violation = violations_of(error.errors(include_url=False), Settings)[0]
        key = re.split(r"[.\[]", violation.param)[0]
        source = sources.get(key, key)
        message = violation.message.replace(f"'{violation.param}'", source, 1).rstrip(".")
        raise SettingsError(f"{message}.") from error
