"""Every row of the error table over HTTP, and what the router and the middleware refuse themselves."""

import logging
import math
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from attendant_engine.errors import ContextLengthError
from attendant_server.config import Settings
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.http_api.app import create_app
from attendant_server.status import STATUS_TABLE
from tests.server.http_api.conftest import MAX_BODY_BYTES
from tests.server.http_api.fakes import FakeGateway, RawCaller

COMPLETION = {"model": "tiny", "prompt": "x"}
ROWS: list[tuple[ErrorCode, int]] = [
    ("invalid_value", 400),
    ("unsupported_parameter", 400),
    ("context_length_exceeded", 400),
    ("invalid_api_key", 401),
    ("permission_denied", 403),
    ("model_not_found", 404),
    ("not_found", 404),
    ("method_not_allowed", 405),
    ("request_too_large", 413),
    ("queue_full", 429),
    ("cancelled", 499),
    ("server_error", 500),
    ("not_ready", 503),
    ("deadline_exceeded", 504),
]


def test_the_rows_below_are_the_whole_table() -> None:
    assert {code for code, _ in ROWS} == set(STATUS_TABLE)


@pytest.mark.parametrize(("code", "status"), ROWS)
@pytest.mark.parametrize("streams", [False, True])
async def test_each_row_has_its_status_body_and_headers(
    client: httpx.AsyncClient, gateway: FakeGateway, code: ErrorCode, status: int, streams: bool
) -> None:
    gateway.error = ServingError(code, "A sentence.", param="prompt")
    response = await client.post("/v1/completions", json={**COMPLETION, "stream": streams})
    assert response.status_code == status
    row = STATUS_TABLE[code]
    assert response.json() == {"error": {"message": "A sentence.", "type": row.openai_type, "param": "prompt", "code": code}}
    assert ("retry-after" in response.headers) == row.is_retryable
    assert response.headers.get("x-should-retry") == ("false" if code == "deadline_exceeded" else None)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_retry_after_is_whole_seconds_and_never_zero(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    for retry_after_s, header in ((0.05, "1"), (2.2, "3")):
        gateway.error = ServingError("queue_full", "full", retry_after_s=retry_after_s)
        assert (await client.post("/v1/completions", json=COMPLETION)).headers["retry-after"] == header


async def test_an_engines_error_keeps_its_meaning(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.error = ContextLengthError("The prompt has 1312 tokens; this model takes at most 1024.", param="prompt")
    response = await client.post("/v1/completions", json=COMPLETION)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_our_own_fault_says_nothing_of_itself_but_the_request_id(
    client: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.error = RuntimeError("secret /path/of/ours")
    response = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert "abc" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert any(record.exc_info for record in caplog.records)
    gateway.error = None
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/completions/", "/v1/models/nope", "/web/nope.js", "/web/..%2fapp.py", "/docs/x"])
async def test_what_is_not_there_is_404_in_the_same_shape(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("not_found", "model_not_found")


async def test_a_wrong_method_is_405_and_says_which_is_right(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert (await client.delete("/v1/models")).status_code == 405


async def test_a_body_is_refused_by_its_announced_length_before_it_is_read(app: FastAPI, gateway: FakeGateway) -> None:
    caller = RawCaller(app, "/v1/completions", COMPLETION, headers={"content-length": str(MAX_BODY_BYTES + 1)})
    unread = [b"x"] * 3
    caller.send_in_parts(unread)
    await caller.run()
    assert caller.status == 413
    assert len(unread) == 3
    assert not gateway.calls


async def test_a_body_is_refused_as_soon_as_it_proves_too_large(app: FastAPI, gateway: FakeGateway) -> None:
    unread = [b"x" * 5000] * 100
    caller = RawCaller(app, "/v1/completions", COMPLETION)
    caller.send_in_parts(unread)
    await caller.run()
    assert caller.status == 413
    assert len(unread) == 100 - (MAX_BODY_BYTES // 5000 + 1)
    assert not gateway.calls


async def test_a_body_just_within_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    num_more = MAX_BODY_BYTES - len(b'{"model":"tiny","prompt":""}')
    content = b'{"model":"tiny","prompt":"' + b"x" * num_more + b'"}'
    headers = {"content-type": "application/json"}
    assert (await client.post("/v1/completions", content=content, headers=headers)).status_code == 200
    assert (await client.post("/v1/completions", content=content + b" ", headers=headers)).status_code == 413


async def test_a_sane_request_id_is_kept_and_any_other_replaced(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    kept = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": "my-id.1"})
    assert kept.headers["x-request-id"] == "my-id.1"
    assert gateway.last_call.request_id == "my-id.1"
    assert kept.json()["id"] == "my-id.1"
    made = set()
    for bad in (b"", b"a b", b"x" * 129, "é".encode()):
        response = await client.get("/health", headers={b"x-request-id": bad})
        made.add(response.headers["x-request-id"])
    assert len(made) == 4
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.parametrize("path", ["/nope", "/health", "/v1/models"])
async def test_every_response_has_a_request_id(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).headers["x-request-id"]


async def test_the_log_has_the_request_id_and_no_prompt(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="attendant_server"):
        await client.post("/v1/completions", json={**COMPLETION, "prompt": "a secret prompt"}, headers={"x-request-id": "abc"})
        await client.post("/v1/completions", json={**COMPLETION, "prompt": ["a secret prompt", 3]})
    lines = [record.__dict__.get("attendant_fields", {}) for record in caplog.records if record.getMessage() == "http request"]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/completions", 200), ("/v1/completions", 400)]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "", "1e"])
async def test_a_timeout_that_is_no_duration_is_refused(client: httpx.AsyncClient, gateway: FakeGateway, value: str) -> None:
    response = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-timeout-s": value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout-s")
    assert not gateway.calls


async def test_a_timeout_becomes_the_calls_deadline(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    before_s = time.monotonic()
    await client.post("/v1/completions", json=COMPLETION, headers={"x-request-timeout-s": "2.5"})
    deadline_s = gateway.last_call.deadline_s
    assert deadline_s is not None
    assert before_s + 2.5 <= deadline_s <= time.monotonic() + 2.5
    await client.post("/v1/completions", json=COMPLETION, headers={"x-request-timeout-s": str(math.inf)})
    assert gateway.last_call.deadline_s is None
    await client.post("/v1/completions", json=COMPLETION)
    assert gateway.last_call.deadline_s is None


async def test_with_keys_every_path_is_closed_but_the_probes(client: httpx.AsyncClient, gateway: FakeGateway, app: FastAPI) -> None:
    gateway.key = "right"
    document = app.openapi()
    paths = [*document["paths"], "/", "/docs", "/openapi.json", "/nope", "/health/", "//health", "/web/page.css", "/HEALTH"]
    for path in paths:
        expected = {200} if path in ("/health", "/ready") else {401}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            response = await client.request("POST" if "post" in document["paths"].get(path, {}) else "GET", path, headers=headers)
            assert response.status_code in expected, path
            assert response.status_code == 200 or response.json()["error"]["code"] == "invalid_api_key"
    response = await client.post("/v1/completions", json=COMPLETION, headers={"authorization": "Bearer right"})
    assert response.status_code == 200
    assert gateway.last_call.tenant == "tenant-a"


async def test_ready_says_503_until_it_is(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.ready = False
    response = await client.get("/ready")
    assert (response.status_code, response.headers["retry-after"], response.json()["error"]["code"]) == (503, "1", "not_ready")
    assert (await client.get("/health")).status_code == 200
    gateway.ready = True
    assert (await client.get("/ready")).json() == {"status": "ready"}


async def test_without_a_gateway_yet_all_but_health_is_not_ready() -> None:
    def no_gateway_yet() -> Any:
        raise ServingError("not_ready", "The server is starting; try again soon.")

    app = create_app(no_gateway_yet, Settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/health")).status_code == 200
        for path in ("/ready", "/v1/models", "/", "/metrics"):
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")


async def test_a_websocket_is_closed(app: FastAPI) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "websocket", "path": "/v1/completions", "headers": []}, receive, send)
    assert sent == ["websocket.close"]


async def test_metrics_are_the_gateways(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.text == "attendant_requests_total 1.0\n"
    assert response.headers["content-type"].startswith("text/plain; version=")
