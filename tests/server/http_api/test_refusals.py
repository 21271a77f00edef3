"""Requests that end before a task has them are counted, each once, under a bounded endpoint; the tasks count the others."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from attendant_server.config import Settings
from attendant_server.errors import ServingError
from attendant_server.http_api.app import create_app
from tests.server.http_api.conftest import MAX_BODY_BYTES
from tests.server.http_api.fakes import FakeGateway, RawCaller

COMPLETION = {"model": "tiny", "prompt": "x"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "more", "endpoint", "code"),
    [
        ("POST", "/v1/completions", {"content": b"{", "headers": JSON}, "/v1/completions", "invalid_value"),
        ("POST", "/v1/completions", {"content": b"{}"}, "/v1/completions", "invalid_value"),
        ("POST", "/v1/completions", {"json": {**COMPLETION, "promt": "x"}}, "/v1/completions", "unsupported_parameter"),
        ("POST", "/v1/completions", {"json": COMPLETION, "headers": {"x-request-timeout-s": "soon"}}, "/v1/completions", "invalid_value"),
        ("POST", "/v1/embeddings", {"json": {"input": "x" * MAX_BODY_BYTES}}, "/v1/embeddings", "request_too_large"),
        ("GET", "/v1/completions", {}, "/v1/completions", "method_not_allowed"),
        ("POST", "/ready", {}, "/ready", "method_not_allowed"),
        ("DELETE", "/openapi.json", {}, "/openapi.json", "method_not_allowed"),
        ("GET", "/v1/models/no/such", {}, "/v1/models/{model}", "model_not_found"),
        ("GET", "/web/no.js", {}, "/web/{name}", "not_found"),
        ("GET", "/nope", {}, "unknown_route", "not_found"),
        ("GET", "/nope/%ff/%7B%7D", {}, "unknown_route", "not_found"),
        ("POST", "/v1/completions/", {"json": COMPLETION}, "unknown_route", "not_found"),
    ],
)
async def test_what_the_edge_refuses_is_counted_under_its_route(
    client: httpx.AsyncClient, gateway: FakeGateway, method: str, path: str, more: dict[str, Any], endpoint: str, code: str
) -> None:
    response = await client.request(method, path, **more)
    assert response.json()["error"]["code"] == code
    assert gateway.refusals == [(endpoint, code)]
    assert not gateway.calls


async def test_no_key_is_counted_under_the_route_it_was_for(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.key = "right"
    for path in ("/v1/models/tiny", "/nope", "/docs"):
        assert (await client.get(path)).status_code == 401
    endpoints = ("/v1/models/{model}", "unknown_route", "/docs")
    assert gateway.refusals == [(endpoint, "invalid_api_key") for endpoint in endpoints]


async def test_a_body_that_grows_too_large_is_counted(app: FastAPI, gateway: FakeGateway) -> None:
    caller = RawCaller(app, "/v1/classify", {})
    caller.send_in_parts([b"x" * MAX_BODY_BYTES, b"x"])
    await caller.run()
    assert (caller.status, gateway.refusals) == (413, [("/v1/classify", "request_too_large")])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("error", [ServingError("queue_full", "full"), RuntimeError("ours"), None])
async def test_what_a_task_has_seen_is_the_tasks_to_count(
    client: httpx.AsyncClient, gateway: FakeGateway, streams: bool, error: Exception | None
) -> None:
    gateway.error = error
    await client.post("/v1/completions", json={**COMPLETION, "stream": streams})
    assert len(gateway.calls) == 1
    assert gateway.refusals == []


async def test_a_probe_that_hears_not_ready_is_no_refusal(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.ready = False
    assert (await client.get("/ready")).status_code == 503
    assert gateway.refusals == []


async def test_a_refusal_without_a_gateway_yet_is_still_answered() -> None:
    def no_gateway_yet() -> Any:
        raise ServingError("not_ready", "the server is starting; try again soon")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(no_gateway_yet, Settings())), base_url="http://test") as client:
        assert (await client.get("/nope")).status_code == 503
