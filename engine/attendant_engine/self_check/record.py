"""A recorded right answer in a checkpoint's directory: a fixed prompt, and what the model says to it in float32.

``attendant-self-check.json`` holds for a decoder the most probable tokens and their log-probabilities at some positions,
for other models some components of the embedding (of length one) or of the classifier's logits. Its ``tolerances`` may be
widened by hand.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from attendant_engine.json_fields import Fields, read_optional_fields

FILE_NAME = "attendant-self-check.json"

MAX_TOKENS = 256
"""A self-check is to take milliseconds."""

MAX_ENTRIES = 64
"""Positions, tokens of a position, and components of a vector."""

LOGPROB_TOLERANCES: dict[str, float] = {"float32": 0.001, "float16": 0.05, "bfloat16": 0.3, "int8": 0.6, "int4": 3.0}
"""How far a log-probability may be off, in nats, by what weights, activations or the cache are held in; the widest counts.

Two to seven times what each costs on ``stories260k`` (in this order 0.00001, 0.01, 0.09, 0.22, 1.5), whose 260 thousand
parameters take rounding worse than larger models; a step with a wrong block, position or row moves probable tokens by several nats.
"""

VECTOR_TOLERANCES: dict[str, float] = {"float32": 0.001, "float16": 0.01, "bfloat16": 0.06, "int8": 0.3, "int4": 0.8}
"""How far a vector may be off, as a part of its length.

1.41 is what two that have nothing in common differ by. ``attendant-minilm`` differs by 0.000005, 0.0008, 0.004, 0.06 and 0.23;
over 250 sentences its int8 comes to 0.21 and its int4 to 0.53 (``benchmarks/results``, quantization-error).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is said at ``position`` of the token there, given all before: the most probable ones, best first."""

    position: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSample:
    """Some ``components`` of the answer to a pooling task, and their ``values``."""

    task: Literal["embedding", "classification"]
    components: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The prompt is the first ``num_prompt_tokens`` of ``token_ids``, the rest its greedy continuation.

    ``digest`` is that of the weights that it was made of; ``tolerances`` are by the class of numbers.
    """

    digest: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    predictions: tuple[Prediction, ...] = ()
    vector: VectorSample | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)


def read_record(directory: Path) -> Record | None:
    """Return the record of the checkpoint in ``directory``, None where it has none. Raises ``CheckpointError`` for a wrong one."""
    fields = read_optional_fields(directory, FILE_NAME)
    if fields is None:
        return None
    fields.integer("version", minimum=1, maximum=1)
    token_ids = _integers(fields, "token_ids", most=MAX_TOKENS)
    vector = fields.fields("vector")
    record = Record(
        digest=fields.text("weights_sha256"),
        token_ids=token_ids,
        num_prompt_tokens=fields.integer("num_prompt_tokens", maximum=len(token_ids)),
        predictions=tuple(_prediction(item, len(token_ids)) for item in _objects(fields, "predictions")),
        vector=None if vector is None else _vector(vector),
        tolerances=_tolerances(fields, LOGPROB_TOLERANCES if vector is None else VECTOR_TOLERANCES),
    )
    if (record.vector is None) == (not record.predictions):
        raise fields.error("needs predictions (a decoder's) or a vector (another model's), one of the two")
    return record


def write_record(directory: Path, record: Record, *, made_by: str) -> None:
    """Write ``record`` beside the checkpoint. Raises ``OSError``."""
    lines = [
        '  "version": 1',
        f'  "made_by": {json.dumps(made_by)}',
        f'  "weights_sha256": {json.dumps(record.digest)}',
        f'  "tolerances": {json.dumps(dict(record.tolerances))}',
        f'  "num_prompt_tokens": {record.num_prompt_tokens}',
        f'  "token_ids": {json.dumps(record.token_ids)}',
    ]
    if record.predictions:
        rows = [
            json.dumps({"position": item.position, "token_ids": item.token_ids, "logprobs": _short(item.logprobs)})
            for item in record.predictions
        ]
        lines.append('  "predictions": [\n    ' + ",\n    ".join(rows) + "\n  ]")
    if record.vector is not None:
        values = {"task": record.vector.task, "components": record.vector.components, "values": _short(record.vector.values)}
        lines.append(f'  "vector": {json.dumps(values)}')
    (directory / FILE_NAME).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _short(values: Sequence[float]) -> list[float]:
    return [round(value, 6) for value in values]


def _prediction(fields: Fields, num_tokens: int) -> Prediction:
    token_ids = _integers(fields, "token_ids", most=MAX_ENTRIES)
    return Prediction(
        position=fields.integer("position", maximum=num_tokens),
        token_ids=token_ids,
        logprobs=_numbers(fields, "logprobs", count=len(token_ids)),
    )


def _vector(fields: Fields) -> VectorSample:
    components = _integers(fields, "components", most=MAX_ENTRIES)
    task = fields.text("task")
    if task not in ("embedding", "classification"):
        raise fields.error(f"task must be embedding or classification, not {task!r:.80}")
    return VectorSample(
        task=cast(Literal["embedding", "classification"], task),
        components=components,
        values=_numbers(fields, "values", count=len(components)),
    )


def _tolerances(fields: Fields, defaults: Mapping[str, float]) -> dict[str, float]:
    given = fields.fields("tolerances") or Fields(fields.file_name, {})
    unknown = sorted(set(given.values) - set(defaults))
    if unknown:
        raise given.error(f"{unknown[0]!r:.80} is no class of numbers; known are {', '.join(defaults)}")
    return {name: given.number(name, default) for name, default in defaults.items()}


def _objects(fields: Fields, key: str) -> list[Fields]:
    items = fields.get(key) or []
    if not isinstance(items, list) or len(items) > MAX_ENTRIES or not all(isinstance(item, dict) for item in items):
        raise fields.error(f"{key} must be a list of at most {MAX_ENTRIES} objects")
    return [Fields(f"{fields.file_name}: {key}", item) for item in items]


def _integers(fields: Fields, key: str, *, most: int) -> tuple[int, ...]:
    items = fields.get(key)
    if not isinstance(items, list) or not 1 <= len(items) <= most or not all(type(item) is int and item >= 0 for item in items):
        raise fields.error(f"{key} must be a list of 1 to {most} whole numbers of at least 0")
    return tuple(items)


def _numbers(fields: Fields, key: str, *, count: int) -> tuple[float, ...]:
    items = fields.get(key)
    if (
        not isinstance(items, list)
        or len(items) != count
        or not all(isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) for item in items)
    ):
        raise fields.error(f"{key} must be a list of {count} finite numbers")
    return tuple(float(item) for item in items)
