"""Typed reading of a checkpoint's JSON files, so that a wrong value is one clear sentence and nothing reads a raw key twice."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from attendant_engine.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024
"""No configuration or index is near this; a bigger file is not one."""

MAX_INTEGER = 2**24
"""Far above any size in a configuration; products of sizes below it still fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and the name of its file. A key that is absent or null takes the default; without one it is an error."""

    file_name: str
    values: Mapping[str, object]

    def __contains__(self, key: str) -> bool:
        """Tell whether ``key`` is there with a value."""
        return self.values.get(key) is not None

    def get(self, key: str) -> object:
        """Return the raw value, None when absent."""
        return self.values.get(key)

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """Return a whole number from ``minimum`` to ``maximum``."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(f"{key} must be a whole number of at least {minimum}, not {value!r:.80}")
        if value > maximum:
            raise self.error(f"{key} must be at most {maximum}, not {value!r:.80}")
        return value

    def optional_integer(self, key: str, *, minimum: int = 0) -> int | None:
        """Return a whole number or None."""
        return self.integer(key, minimum=minimum) if key in self else None

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._value(key, default)
        # A whole number may be too large for a float; comparing, unlike converting, takes any.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.error(f"{key} must be a number, not {value!r:.80}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {value!r:.80}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key} must be a string, not {value!r:.80}")
        return value

    def fields(self, key: str) -> "Fields | None":
        """Return the object under ``key``, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"{key} must be an object, not {value!r:.80}")
        return Fields(f"{self.file_name}: {key}", cast(dict[str, object], value))

    def error(self, problem: str) -> CheckpointError:
        """Return, not raise, an error that names the file."""
        return CheckpointError(f"{self.file_name}: {problem}.")

    def _value(self, key: str, default: object) -> object:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise self.error(f"{key} is missing")
            return default
        return value


def read_json(directory: Path, file_name: str) -> object:
    """Parse a JSON file of the checkpoint. Raises ``CheckpointError`` when it is absent, huge, or not JSON in UTF-8."""
    path = directory / file_name
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file_name} is larger than {MAX_JSON_BYTES} bytes, so it is not what its name says.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"The model directory has no {file_name}; point at a complete Hugging Face checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"{file_name} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file_name} is not valid JSON; download or export the checkpoint again.") from None


def read_fields(directory: Path, file_name: str) -> Fields:
    """Parse a JSON file that must hold an object."""
    values = read_json(directory, file_name)
    if not isinstance(values, dict):
        raise CheckpointError(f"{file_name} must hold a JSON object.")
    return Fields(file_name, cast(dict[str, object], values))


def read_optional_fields(directory: Path, file_name: str) -> Fields | None:
    """Parse a JSON object, or return None where there is no such file."""
    return read_fields(directory, file_name) if (directory / file_name).exists() else None
