"""The OpenAPI document: routes read their bodies themselves, so what they read and answer is declared here.

FastAPI builds the document from the routes; this module adds the bodies' schemas and the error responses, by the one
status table.
"""

from collections.abc import Iterable
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from attendant_engine import __version__
from attendant_server.http_api import bodies
from attendant_server.http_api.call import OPEN_PATHS
from attendant_server.http_api.field_notes import describe_fields
from attendant_server.http_api.schemas import ErrorAnswer
from attendant_server.status import STATUS_TABLE

BODY_TYPES: tuple[type[BaseModel], ...] = (
    bodies.CompletionBody,
    bodies.ChatBody,
    bodies.EmbedBody,
    bodies.ClassifyBody,
    bodies.FewShotBody,
    bodies.LoadModelBody,
    bodies.UnloadModelBody,
    bodies.TokenizeBody,
    bodies.DetokenizeBody,
)
_REF_TEMPLATE = "#/components/schemas/{model}"

_DESCRIPTION = """OpenAI-compatible generation and embeddings, and this server's own tasks, for every served model.

Every answer has the header `x-request-id` (yours, if you send one). `x-request-timeout-s` on a request is its deadline in seconds.
Closing the connection cancels the work."""


def declares_body(body_type: type[BaseModel]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that reads ``body_type``."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF_TEMPLATE.format(model=body_type.__name__)}}},
        }
    }


def error_responses(codes: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of the error ``codes``, a status each."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS_TABLE[code].http_status, []).append(code)
    responses: dict[int | str, dict[str, Any]] = {}
    for status, names in by_status.items():
        responses[status] = {"model": ErrorAnswer, "description": "Code " + " or ".join(names)}
        if any(STATUS_TABLE[name].is_retryable for name in names):
            responses[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    return responses


COMMON_ERRORS = ("invalid_api_key", "server_error")
TASK_ERRORS = (
    "invalid_value",
    "unsupported_parameter",
    "context_length_exceeded",
    "model_not_found",
    "request_too_large",
    "queue_full",
    "not_ready",
    "deadline_exceeded",
    *COMMON_ERRORS,
)


def build_document(app: FastAPI, *, asks_keys: bool = False) -> dict[str, Any]:
    """Return the document of ``app``'s routes."""
    document: dict[str, Any] = get_openapi(title="attendant", version=__version__, description=_DESCRIPTION, routes=app.routes)
    _, definitions = models_json_schema([(body_type, "validation") for body_type in BODY_TYPES], ref_template=_REF_TEMPLATE)
    describe_fields(definitions["$defs"])
    for body_type in BODY_TYPES:
        # As they are written there; pydantic sorts their fields by name.
        definitions["$defs"][body_type.__name__].update(cast(dict[str, Any], body_type.model_config["json_schema_extra"]))
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **definitions["$defs"]}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer", "description": "Only where the server asks for keys."}}
    document["security"] = [{"apiKey": []}] if asks_keys else [{}, {"apiKey": []}]
    timeout = {
        "name": "x-request-timeout-s",
        "in": "header",
        "required": False,
        "description": "Deadline of the request, in seconds.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in OPEN_PATHS:
                operation["security"] = []
            # FastAPI's own validation errors; here every fault of a request is a 400 in our shape.
            operation["responses"].pop("422", None)
            if method == "post":
                operation.setdefault("parameters", []).append(timeout)
    return document
