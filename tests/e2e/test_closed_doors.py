"""A server with keys, over real sockets: whatever is sent without a key, nothing but the probes answers."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.server_process import ServerProcess

KEY = "alice-key-1"
OTHER_KEY = "bob-key-1"
OPEN = (b"GET /health", b"HEAD /health", b"GET /ready", b"HEAD /ready", b"GET /%68ealth", b"GET http://evil.example/health")
CLOSED = (
    b"GET /",
    b"HEAD /",
    b"GET /docs",
    b"GET /openapi.json",
    b"GET /metrics",
    b"GET /v1/models",
    b"GET //v1/models",
    b"GET /v1//models",
    b"GET /%76%31/models",
    b"GET /v1%2fmodels",
    b"GET /health/../v1/models",
    b"GET /health%2f..%2fv1/models",
    b"GET //health",
    b"GET /health/",
    b"GET /health;/v1/models",
    b"GET http://evil.example/v1/models",
    b"GET http://localhost/metrics",
    b"GET /nope?/health",
    b"OPTIONS *",
    b"OPTIONS /v1/completions",
    b"TRACE /v1/models",
    b"PROPFIND /",
    b"POST /v1/completions",
    b"DELETE /v1/models",
    b"GET /\xff",
)
HOSTS = (b"localhost", b"evil.example:99999", b"[::1", b"", b"a" * 4000)


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("closed")
    (directory / "keys").write_text(f"alice: {KEY}\nalice: {KEY}-too\nbob: {OTHER_KEY}\n")
    server = ServerProcess(
        MODEL,
        *("--http-port", "0", "--grpc-port", "0", "--local", "--kv-cache-memory", "12MiB", "--log-level", "warning"),
        *("--api-key-file", str(directory / "keys")),
        log_dir=directory,
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


def _status(server: ServerProcess, request: bytes, host: bytes = b"x", *more: bytes) -> tuple[int, bytes]:
    """Send raw bytes and return the status and body of what comes back."""
    address = server.http_url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=20) as raw:
        lines = (request + b" HTTP/1.1", b"host: " + host, b"connection: close", *more, b"", b"")
        raw.sendall(b"\r\n".join(lines))
        response = http.client.HTTPResponse(raw, method=request.split()[0].decode())
        response.begin()
        return response.status, response.read()


def test_only_the_probes_answer_without_a_key(closed_server: ServerProcess) -> None:
    for request in OPEN:
        assert _status(closed_server, request)[0] == 200, request
    for request in CLOSED:
        status, body = _status(closed_server, request)
        # What is no HTTP at all is refused by the parser, before there is a request.
        assert status == 401 or (status == 400 and body == b"Invalid HTTP request received."), request
    assert _status(closed_server, b"GET /v1/models", b"x", b"authorization: Bearer " + KEY.encode())[0] == 200


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_opens_a_door(closed_server: ServerProcess, host: bytes) -> None:
    for request in (b"GET /", b"GET /v1/models", b"GET /metrics"):
        assert _status(closed_server, request, host)[0] in (400, 401)


def test_no_upgrade_opens_a_door(closed_server: ServerProcess) -> None:
    websocket = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: eA==", b"sec-websocket-version: 13")
    assert _status(closed_server, b"GET /v1/models", b"x", *websocket)[0] == 401
    assert _status(closed_server, b"GET /v1/models", b"x", b"connection: upgrade", b"upgrade: h2c")[0] == 401


def test_no_method_opens_a_door(closed_server: ServerProcess) -> None:
    with grpc.insecure_channel(closed_server.grpc_address) as channel:
        for method in (
            "/attendant.v1.InferenceService/ListModels",
            "/attendant.v1.InferenceService/Complete",
            "/grpc.health.v1.Health/List",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/nope.Service/Nope",
        ):
            assert _code(channel, method) == grpc.StatusCode.UNAUTHENTICATED, method
        assert _code(channel, "/grpc.health.v1.Health/Check") == grpc.StatusCode.OK
        assert _code(channel, "/attendant.v1.InferenceService/ListModels", KEY) == grpc.StatusCode.OK


def _code(channel: grpc.Channel, method: str, key: str | None = None) -> grpc.StatusCode:
    raw: Any = channel
    try:
        raw.unary_unary(method)(b"", timeout=20, metadata=(("authorization", f"Bearer {key}"),) if key else ())
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK


def test_the_key_is_in_no_log_and_no_answer(closed_server: ServerProcess) -> None:
    _, body = _status(closed_server, b"GET /v1/models", b"x", b"authorization: Bearer " + KEY.encode() + b"x")
    assert KEY.encode() not in body
    assert KEY not in closed_server.stderr
    assert Path(f"/proc/{closed_server.pid}/cmdline").read_bytes().count(KEY.encode()) == 0


def test_tenants_share_no_cached_prefix(closed_server: ServerProcess) -> None:
    prompt = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. " * 3

    def cached(key: str, **more: Any) -> int:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0, **more}
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{closed_server.http_url}/v1/completions", json=body, headers=headers, timeout=60).json()
        tokens: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return tokens

    assert cached(KEY) == 0
    assert cached(KEY) > 32
    assert cached(KEY + "-too") > 32, "the same tenant with another of its keys"
    assert cached(OTHER_KEY) == 0
    for salt in ("alice", "alice\0", "\0alice\0", "bob\0"):
        assert cached(OTHER_KEY, cache_salt=salt) == 0, salt
    assert cached(OTHER_KEY) > 32
    assert cached(KEY, cache_salt="apart") == 0
