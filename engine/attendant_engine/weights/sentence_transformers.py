"""How a sentence-transformers checkpoint makes an embedding: its ``modules.json`` and the modules' own files.

Obeyed as written: a transformer, one pooling of a mode that we have, perhaps normalisation. Anything else is refused,
because leaving a module out would give plausible and wrong vectors.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from attendant_engine.errors import CheckpointError
from attendant_engine.json_fields import Fields, read_fields, read_json, read_optional_fields
from attendant_engine.types import PoolingMode

_MODE_BY_NAME: dict[str, PoolingMode] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}

_LEGACY_FLAG_PREFIX = "pooling_mode_"
_LEGACY_NAMES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "weightedmean_tokens": "weightedmean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRecipe:
    """What follows the transformer, and the length in tokens that texts were cut to in training."""

    pooling: PoolingMode
    normalize: bool
    max_sequence_length: int | None


def read_embedding_recipe(directory: Path) -> EmbeddingRecipe | None:
    """Return the recipe of ``modules.json``, or None where there is no such file.

    Raises ``CheckpointError`` for modules, poolings or orders that are not implemented.
    """
    if not (directory / "modules.json").exists():
        return None
    modules = _read_modules(directory)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"modules.json lists {', '.join(kinds) or 'nothing'}; supported are Transformer, Pooling and, after them, Normalize."
        )
    if modules[0][1] not in ("", "."):
        raise CheckpointError("modules.json keeps the transformer in a folder of its own; move its files beside modules.json.")
    pooling = read_fields(directory, f"{modules[1][1]}/config.json")
    lengths = read_optional_fields(directory, "sentence_bert_config.json")
    return EmbeddingRecipe(
        pooling=_pooling_mode(pooling),
        normalize=len(kinds) == 3,
        max_sequence_length=None if lengths is None else lengths.optional_integer("max_seq_length", minimum=1),
    )


def _read_modules(directory: Path) -> list[tuple[str, str]]:
    """Return each module's class name and folder."""
    listed = read_json(directory, "modules.json")
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise CheckpointError("modules.json must hold a list of objects.")
    modules = []
    for module in cast(list[dict[str, object]], listed):
        fields = Fields("modules.json", module)
        folder = PurePosixPath(fields.text("path", ""))
        if folder.is_absolute() or ".." in folder.parts:
            raise CheckpointError("modules.json names a folder outside the model directory.")
        modules.append((fields.text("type").rpartition(".")[2], "" if folder == PurePosixPath(".") else str(folder)))
    return modules


def _pooling_mode(fields: Fields) -> PoolingMode:
    modes = _listed_modes(fields)
    if len(modes) != 1 or modes[0] not in _MODE_BY_NAME:
        raise fields.error(
            f"pooling {' + '.join(modes) or 'none'} is not supported; supported is exactly one of {', '.join(_MODE_BY_NAME)}"
        )
    if not fields.flag("include_prompt", True):
        raise fields.error("include_prompt false is not supported")
    return _MODE_BY_NAME[modes[0]]


def _listed_modes(fields: Fields) -> list[str]:
    """Return the modes named by the new single key, else those whose old flags are true."""
    named = fields.get("pooling_mode")
    if named is not None:
        return [str(mode) for mode in named] if isinstance(named, list) else [str(named)]
    flags = [key.removeprefix(_LEGACY_FLAG_PREFIX) for key in fields.values if key.startswith(_LEGACY_FLAG_PREFIX)]
    return [_LEGACY_NAMES.get(flag, flag) for flag in flags if fields.flag(_LEGACY_FLAG_PREFIX + flag, False)]
