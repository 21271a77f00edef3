"""Reads a request's body: strict JSON (RFC 8259) of the right content type, checked by a pydantic model.

Not FastAPI's own reading, because that takes NaN and lone surrogates, and knows neither our error shape nor "did you mean".
"""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from attendant_server.errors import ServingError
from attendant_server.gateway.requests import MAX_FIELDS
from attendant_server.status import view_error

BodyT = TypeVar("BodyT", bound=BaseModel)

_MAX_EXACT = 2**53

_NOT_JSON_NUMBER = re.compile(rb"-?(NaN|Infinity)")
_POSITION = re.compile(r"line (\d+) column (\d+)$")


async def read_body(request: Request, body_type: type[BodyT]) -> BodyT:
    """Read and check the body. Raises ``ServingError`` that names the place or field at fault."""
    _check_content_type(request.headers.get("content-type"))
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ServingError("cancelled", "the caller went away while sending the body") from None
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise ServingError("invalid_value", "the body must be a JSON object")
    if len(data) <= MAX_FIELDS:
        data = {name: _whole(value) for name, value in data.items()}
    try:
        return body_type.model_validate(data)
    except ValidationError as error:
        view = view_error(error, request_type=body_type)
        # The pydantic error quotes the caller's input; it must not end up in a log as the cause.
        raise ServingError(
            "unsupported_parameter" if view.code == "unsupported_parameter" else "invalid_value", view.message, param=view.param
        ) from None


def _whole(value: Any) -> Any:
    """Return 7 for 7.0, which JSON does not tell apart: some callers' numbers are all floating-point."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < _MAX_EXACT else value


def parse_json(raw: bytes) -> Any:
    """Parse strict JSON of at most 200 levels. Raises ``ServingError`` that says where it is broken."""
    try:
        return from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise ServingError("invalid_value", f"the body is not valid JSON: {_explain(raw, str(error))}") from None


def _explain(raw: bytes, message: str) -> str:
    if not raw.strip():
        return "it is empty"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "it starts with a byte order mark; leave it out"
    if "hex escape" in message:
        return f"{message} (a lone surrogate is no character)"
    place = _POSITION.search(message)
    if place is not None:
        lines = raw.split(b"\n", int(place[1]))
        line = lines[int(place[1]) - 1] if len(lines) >= int(place[1]) else b""
        # The parser stops one byte further for a leading minus.
        if any(_NOT_JSON_NUMBER.match(line, max(0, int(place[2]) - 1 - back)) for back in (0, 1)):
            return f"{message} (NaN and Infinity are not JSON; leave the field out)"
    return message


def _check_content_type(value: str | None) -> None:
    """Ask for JSON by name: a browser sends any other type across origins without asking, so a page could use the API."""
    media_type = (value or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        got = f"is {media_type[:60]!a}" if media_type else "is missing"
        raise ServingError("invalid_value", f"the Content-Type header {got}; send the body as application/json", param="content-type")
