"""Mutual TLS and keys on Ray Serve, whose own ports know neither: HAProxy in front ends TLS, the handlers ask for the key."""

import ssl
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from tests.certificates import Authority, Pair
from tests.e2e.callers import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.e2e.processes import descendants, listening_everywhere, own_address
from tests.e2e.server_process import ServerProcess
from tests.e2e.tls_checks import TlsChecks
from tests.e2e.tls_checks import authority as authority
from tests.e2e.tls_checks import client_pair as client_pair
from tests.e2e.tls_checks import stranger as stranger

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]

KEY = "alice-key-1"


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[ServerProcess]:
    pair, directory = authority.issue("server"), tmp_path_factory.mktemp("server")
    (directory / "keys").write_text(f"alice: {KEY}\n")
    server = ServerProcess(
        MODEL,
        *("--http-port", "0", "--grpc-port", "0", "--kv-cache-memory", "6MiB", "--log-level", "warning", "--drain-timeout-s", "5"),
        *("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.ca)),
        *("--api-key-file", str(directory / "keys")),
        log_dir=directory,
    )
    try:
        server.wait_ready(START_TIMEOUT_S)
        yield server
    finally:
        server.stop()


class TestRayTls(TlsChecks):
    key = KEY


def test_without_a_key_nothing_but_the_probes_answers(tls_server: ServerProcess, authority: Authority, client_pair: Pair) -> None:
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes(), client_pair.key.read_bytes(), client_pair.cert.read_bytes())
    with grpc.secure_channel(tls_server.grpc_address.removeprefix("grpcs://"), credentials) as channel:
        assert _code(channel, "/grpc.health.v1.Health/Check") == grpc.StatusCode.OK
        for method in ("Complete", "ListModels", "Tokenize"):
            assert _code(channel, f"/attendant.v1.InferenceService/{method}") == grpc.StatusCode.UNAUTHENTICATED
        assert _code(channel, "/grpc.health.v1.Health/List") == grpc.StatusCode.UNAUTHENTICATED
        for method in ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/nope.Service/Nope", "/x"):
            assert _code(channel, method) == grpc.StatusCode.UNAUTHENTICATED, method
        assert _code(channel, "/nope.Service/Nope", KEY) in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
        assert _code(channel, "/attendant.v1.InferenceService/ListModels", KEY) == grpc.StatusCode.OK
        assert _code(channel, "/ray.serve.RayServeAPIService/ListApplications") == grpc.StatusCode.UNIMPLEMENTED
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(client_pair.cert, client_pair.key)
    with httpx.Client(base_url=tls_server.http_url, verify=context, timeout=20) as client:
        for path in (
            "/",
            "/v1/models",
            "/metrics",
            "/nope",
            "//v1/models",
            "/%76%31/models",
            "/health/../v1/models",
            "/-/healthz/../../v1/models",
        ):
            assert client.get(path).status_code in (401, 404), path
            assert client.request("OPTIONS", path).status_code in (401, 404), path
        for path in ("/-/routes", "/-/healthz"):
            assert client.get(path).status_code == 404
        assert client.head("/ready").status_code == client.get("/health").status_code == 200


def test_no_port_of_ours_is_a_way_round_the_front(tls_server: ServerProcess) -> None:
    """Not even with a key: what listens on every address is Serve's, HAProxy's or Ray's, and does no work for who comes from outside."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    ports = listening_everywhere([tls_server.pid, *descendants(tls_server.pid)])
    assert ports, "Serve's gRPC port listens on every address; if it no longer does, so much the better, and this test may go"
    for port in ports:
        with grpc.insecure_channel(f"{address}:{port}") as channel:
            assert _code(channel, "/attendant.v1.InferenceService/ListModels", KEY) != grpc.StatusCode.OK, port
        try:
            answer = httpx.get(f"http://{address}:{port}/v1/models", headers={"authorization": f"Bearer {KEY}"}, timeout=5)
        except httpx.HTTPError:
            continue
        # Metrics of Ray and of HAProxy are there, whatever the path; nothing of ours is.
        assert '"object"' not in answer.text, port


def _code(channel: grpc.Channel, method: str, key: str | None = None) -> grpc.StatusCode:
    raw: Any = channel
    try:
        raw.unary_unary(method)(b"", timeout=5, metadata=(("authorization", f"Bearer {key}"),) if key else ())
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK
