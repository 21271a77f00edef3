"""What is wrong with a request's fields, as sentences: pydantic's findings rewritten with the value, the bound and the fix.

It reads pydantic's error list alone (FastAPI's has the same shape) and knows no transport. Union branches are folded:
of all the ways a value failed, the branch that got furthest is the one that the caller meant.
"""

import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

MAX_SHOWN_CHARS = 60

# Names that pydantic puts into a location for a branch of a union or for a dictionary's key; none of our fields is so called.
_BRANCH = re.compile(
    r"^(constrained-\w+|str|int|float|bool|dict|list|none|is-instance.*|(list|dict|tuple|union|literal|nullable|function-\w+|model)\[.*\])$"
)

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number that fits in 64 bits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One field at fault: ``param`` is its path such as ``messages[0].content``, "" for the request as a whole."""

    code: str
    param: str
    message: str


def violations_of(errors: Sequence[Mapping[str, Any]], request_type: type[BaseModel] | None = None) -> tuple[Violation, ...]:
    """Rewrite pydantic's error list, one violation a top-level field, in order of appearance.

    ``request_type`` gives the field names for "did you mean". An empty list gives one general violation.
    """
    by_field: dict[Any, list[Mapping[str, Any]]] = {}
    for error in errors:
        loc = error.get("loc") or ("",)
        by_field.setdefault(loc[0], []).append(error)
    found = [_rewrite(_furthest_branch(group), request_type) for group in by_field.values()]
    return tuple(found) or (Violation(code="invalid_value", param="", message="the request is not valid"),)


def show_value(value: Any) -> str:
    """Return a caller's value as short, printable ASCII, for quoting in a message."""
    # Cut before escaping: a value of many megabytes must not be copied to be shown by sixty characters.
    if isinstance(value, str | bytes):
        value = value[:MAX_SHOWN_CHARS]
    elif isinstance(value, Mapping):
        return "an object" if value else "{}"
    elif isinstance(value, list | tuple):
        return f"a list of {len(value)} item{'' if len(value) == 1 else 's'}" if value else "[]"
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = json.dumps(type(value).__name__)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest known name, "" when none is close."""
    close = difflib.get_close_matches(name[:MAX_SHOWN_CHARS], list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _furthest_branch(group: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep the errors of the union branch whose first complaint is furthest along the value, all at one path."""
    branches: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for error in group:
        branches.setdefault(tuple(str(part) for part in error.get("loc", ()) if _is_branch(part)), []).append(error)
    # How far a branch got is the position of its first complaint; of equals, one that accepts the type and refuses the value.
    firsts = [errors[0] for errors in branches.values()]
    # A misspelt field is also a missing one; its own name says more.
    misspelt = [error for error in group if error.get("type") == "extra_forbidden"]
    best = misspelt[0] if misspelt else max(firsts, key=lambda error: (_progress(error), error.get("type") not in _EXPECTED))
    if best.get("type") not in _EXPECTED:
        return [best]
    path = _path(best.get("loc", ()))
    return [best, *(error for error in firsts if error is not best and _path(error.get("loc", ())) == path)]


def _progress(error: Mapping[str, Any]) -> tuple[int, ...]:
    places = tuple(part for part in error.get("loc", ()) if isinstance(part, int))
    # A list that is too long was right up to its bound.
    return (*places, error["ctx"]["max_length"]) if error.get("type") == "too_long" else places


def _is_branch(part: Any) -> bool:
    return isinstance(part, str) and (part == "[key]" or _BRANCH.match(part) is not None)


def _path(loc: Sequence[Any]) -> str:
    path = ""
    for place, part in enumerate(loc):
        if place and _is_branch(part):
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = show_value(str(part))[1:-1]
            path += f".{name}" if path else name
    return path


def _rewrite(errors: Sequence[Mapping[str, Any]], request_type: type[BaseModel] | None) -> Violation:
    error = errors[0]
    kind, loc = str(error.get("type")), tuple(error.get("loc", ()))
    param = _path(loc)
    if kind == "extra_forbidden":
        hint = did_you_mean(str(loc[-1]), _fields_at(request_type, loc[:-1]))
        return Violation(
            code="unsupported_parameter", param=param, message=f"'{param}' is not a parameter of this request{hint or '; leave it out'}"
        )
    subject = f"'{param}'" if param else "the request"
    return Violation(code="invalid_value", param=param, message=_sentence(subject, kind, errors, dict(error.get("ctx") or {})))


def _sentence(subject: str, kind: str, errors: Sequence[Mapping[str, Any]], ctx: Mapping[str, Any]) -> str:
    shown = show_value(errors[0].get("input"))
    if kind in _EXPECTED:
        wanted = list(dict.fromkeys(_EXPECTED[str(error["type"])] for error in errors if error["type"] in _EXPECTED))
        return f"{subject} must be {' or '.join(wanted)}, not {shown}"
    if kind == "missing":
        return f"{subject} is missing; every request of this kind needs it"
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("above", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("below", "lt"),
    }
    if kind in bounds:
        word, key = bounds[kind]
        bound = ctx.get(key)
        return f"{subject} is {shown}; it must be {word} {f'{bound:g}' if isinstance(bound, float) else bound}"
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        unit = "character" if kind.startswith("string") else "item"
        is_short = kind.endswith("short")
        bound = ctx.get("min_length" if is_short else "max_length")
        length = ctx.get("actual_length")
        if length is None and isinstance(errors[0].get("input"), str | list | dict):
            length = len(errors[0]["input"])
        has = (
            f"has {length} {unit}{'' if length == 1 else 's'}" if length is not None else f"has too {'few' if is_short else 'many'} {unit}s"
        )
        return f"{subject} {has}; it must have at {'least' if is_short else 'most'} {bound}"
    if kind in ("literal_error", "enum"):
        return f"{subject} is {shown}; it must be {ctx.get('expected')}"
    if kind == "string_unicode":
        return f"{subject} holds a lone surrogate, which is no character; send valid Unicode"
    if kind == "value_error":
        # Our own validators' words: they are sentences already.
        return f"{subject}: {ctx.get('error')}" if subject != "the request" else str(ctx.get("error"))
    if kind == "json_invalid":
        return f"the body is not valid JSON: {ctx.get('error')}"
    return f"{subject} is {shown}, which is not valid: {str(errors[0].get('msg', '')).lower()}"


def _fields_at(request_type: type[BaseModel] | None, loc: Sequence[Any]) -> tuple[str, ...]:
    """Names of the fields that an object at ``loc`` may have."""
    model = request_type
    for part in loc:
        if model is None:
            return ()
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return tuple(model.model_fields) if model is not None else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside a type such as ``list[ChatMessage] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
