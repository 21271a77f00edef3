"""Nothing but the probes answers without a key, however the request is written; and what is dragged out ends."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Message

from attendant_server.http_api.body_limit import BodyLimit
from attendant_server.http_api.call import OPEN_PATHS
from tests.server.http_api.fakes import FakeGateway

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "X")
HOSTS = ("test", "localhost:1", "[::1]", "evil.example", "a" * 300, "127.0.0.1@evil.example", "")


def _paths(app: FastAPI) -> set[str]:
    """Every path of the application, its variables filled in."""
    found: set[str] = set()
    routers = [app, *(route.original_router for route in app.routes if hasattr(route, "original_router"))]
    for router in routers:
        found.update(
            route.path.replace("{model:path}", "tiny").replace("{name}", "page.css") for route in router.routes if isinstance(route, Route)
        )
    return found


def _variants(path: str) -> list[str]:
    """Return other ways to write ``path``, some of which a router might take for it."""
    first = path[1:2] or "x"
    return [
        "/" + path,
        path + "/",
        path + "//",
        path + "/.",
        "/x/.." + path,
        "/./" + path[1:],
        path.upper(),
        f"/%{ord(first):02x}" + path[2:],
        "/%25" + path[1:],
        path + "%00",
        path + "%20",
        path + ";x=1",
        path + "?key=right",
        "/health/.." + path,
        "/health%2f.." + path,
        "//health/.." + path,
        "/ready;" + path,
    ]


def test_the_walk_sees_the_whole_application(app: FastAPI) -> None:
    paths = _paths(app)
    assert {
        "/",
        "/docs",
        "/openapi.json",
        "/metrics",
        "/health",
        "/v1/models",
        "/v1/models/tiny",
        "/v1/completions",
        "/web/page.css",
    } <= paths
    assert set(app.openapi()["paths"]) <= {path.replace("/tiny", "/{model}") for path in paths}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic right", "right", "bearer\tright"])
async def test_every_route_asks_for_a_key_whatever_the_method(
    app: FastAPI, client: httpx.AsyncClient, gateway: FakeGateway, header: str | None
) -> None:
    gateway.key = "right"
    headers = {} if header is None else {"authorization": header}
    for path in sorted((_paths(app) - OPEN_PATHS) | {"/nope", "/v1", "*", "/favicon.ico", "/%2e%2e"}):
        for method in METHODS:
            response = await client.request(method, path, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
    assert not gateway.calls


async def test_no_way_to_write_a_path_goes_round_the_key(app: FastAPI, client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.key = "right"
    for path in sorted(_paths(app) - OPEN_PATHS):
        for variant in _variants(path):
            response = await client.get(httpx.URL("http://test").copy_with(raw_path=variant.encode()))
            assert response.status_code == 401, variant


@pytest.mark.parametrize("host", HOSTS)
async def test_no_host_header_goes_round_the_key(client: httpx.AsyncClient, gateway: FakeGateway, host: str) -> None:
    gateway.key = "right"
    for path in ("/", "/v1/models", "/metrics", "/nope"):
        headers = {"host": host, "x-forwarded-host": "localhost", "x-forwarded-for": "127.0.0.1", "x-original-url": "/health"}
        assert (await client.get(path, headers=headers)).status_code == 401
        assert (await client.get(path, headers={**headers, "authorization": "Bearer right"})).status_code != 401


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_the_probes_need_no_key_and_take_no_other_method(client: httpx.AsyncClient, gateway: FakeGateway, path: str) -> None:
    gateway.key = "right"
    assert (await client.get(path)).status_code == 200
    for method in set(METHODS) - {"GET", "HEAD", "get"}:
        assert (await client.request(method, path)).status_code == 405


@pytest.mark.parametrize("is_ready", [True, False])
async def test_head_answers_as_get_without_the_body(client: httpx.AsyncClient, gateway: FakeGateway, is_ready: bool) -> None:
    gateway.ready = is_ready
    for path in ("/health", "/ready", "/", "/docs", "/v1/models", "/v1/models/nope", "/nope", "/metrics", "/openapi.json"):
        get, head = await client.get(path), await client.head(path)
        assert head.content == b""
        assert head.status_code == get.status_code
        assert head.headers["content-type"] == get.headers["content-type"]
        if "request id" not in get.text:
            assert head.headers["content-length"] == str(len(get.content))


async def test_head_is_not_for_routes_that_take_no_get(client: httpx.AsyncClient) -> None:
    response = await client.head("/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert (await client.post("/health")).headers["allow"] == "GET, HEAD"


async def test_a_body_that_never_ends_is_refused_and_the_callers_leaving_is_still_heard() -> None:
    is_over = asyncio.Event()
    heard: list[str] = []

    async def reads_all(scope: object, receive: object, send: object) -> None:
        assert callable(receive)
        while (message := await receive())["type"] == "http.request":
            heard.append(message["type"])
        heard.append(message["type"])

    async def drip() -> Message:
        if not heard:
            return {"type": "http.request", "body": b"x", "more_body": is_slow}
        await is_over.wait()
        return {"type": "http.disconnect"}

    async def ignore(message: Message) -> None: ...

    limit = BodyLimit(reads_all, max_body_bytes=100, max_body_s=0.01)
    is_slow = True
    with pytest.raises(Exception, match="not whole after"):
        await limit({"type": "http", "headers": []}, drip, ignore)
    assert heard == ["http.request"]
    heard.clear()
    is_slow = False
    # The body is whole at once: the time limit is over, and waiting for the caller to leave goes on.
    answering = asyncio.ensure_future(limit({"type": "http", "headers": []}, drip, ignore))
    await asyncio.wait((answering,), timeout=0.05)
    assert not answering.done()
    is_over.set()
    await answering
    assert heard == ["http.request", "http.disconnect"]
