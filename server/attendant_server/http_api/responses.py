"""JSON responses and errors on the wire: plain dictionaries in, bytes out, and the headers that errors carry."""

import math
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from attendant_server.status import ErrorView, view_error


def encode_json(value: Any) -> bytes:
    """Encode plain data as UTF-8 JSON; a number that JSON does not have becomes null."""
    return to_json(value, inf_nan_mode="null")


class JsonResponse(Response):
    """Plain data as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return encode_json(content)


def error_body(view: ErrorView) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": view.message, "type": view.openai_type, "param": view.param, "code": view.code}}


def error_response(error: BaseException, request_id: str) -> JsonResponse:
    """Turn any exception into the response that its caller may see."""
    view = view_error(error, request_id=request_id)
    headers: dict[str, str] = {}
    if view.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(view.retry_after_s)))
    if view.forbids_retry:
        headers["x-should-retry"] = "false"
    if view.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return JsonResponse(error_body(view), status_code=view.http_status, headers=headers)
