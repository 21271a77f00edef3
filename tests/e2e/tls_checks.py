"""What every way of hosting must do with TLS: answer who trusts it, and with mutual TLS nobody without a certificate."""

import contextlib
import ssl
import subprocess

import httpx
import pytest

from attendant_client import AsyncClient, Client, ConnectionFailedError, RetryPolicy, Tls
from tests.certificates import Authority, Pair
from tests.e2e.callers import MODEL
from tests.e2e.server_process import ServerProcess

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the server's certificate and those of its clients."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    """What a client shows."""
    return authority.issue("client")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


class TlsChecks:
    """Inherit, import the fixtures above, and give ``tls_server`` (mutual TLS) and ``key`` where it asks for one."""

    key: str | None = None

    def test_http_and_grpc_answer_who_shows_a_certificate(self, tls_server: ServerProcess, authority: Authority, client_pair: Pair) -> None:
        assert tls_server.http_url.startswith("https://")
        assert tls_server.grpc_address.startswith("grpcs://")
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(client_pair.cert, client_pair.key)
        body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
        with httpx.Client(base_url=tls_server.http_url, verify=context, timeout=60, headers=self._headers()) as client:
            assert client.get("/health").status_code == 200
            text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        tls = Tls(ca_file=str(authority.ca), cert_file=str(client_pair.cert), key_file=str(client_pair.key))
        with Client(tls_server.grpc_address, tls=tls, api_key=self.key) as grpc_client:
            assert grpc_client.is_ready()
            assert grpc_client.complete(MODEL, "Once upon a time", max_tokens=4, temperature=0).completions[0].text == text

    async def test_a_stream_comes_through(self, tls_server: ServerProcess, authority: Authority, client_pair: Pair) -> None:
        tls = Tls(ca_file=str(authority.ca), cert_file=str(client_pair.cert), key_file=str(client_pair.key))
        async with AsyncClient(tls_server.grpc_address.replace("grpcs", "https"), tls=tls, api_key=self.key) as client:
            pieces = [piece.text async for piece in client.stream_complete(MODEL, "Once upon a time", max_tokens=8, temperature=0)]
        assert "".join(pieces) == ", there was a little girl"

    def test_nobody_gets_in_without_a_certificate_of_the_authority(
        self, tls_server: ServerProcess, authority: Authority, stranger: Authority
    ) -> None:
        ca = str(authority.ca)
        for pair in (None, stranger.issue("client-of-stranger")):
            context = ssl.create_default_context(cafile=ca)
            tls = Tls(ca_file=ca)
            if pair is not None:
                context.load_cert_chain(pair.cert, pair.key)
                tls = Tls(ca_file=ca, cert_file=str(pair.cert), key_file=str(pair.key))
            with httpx.Client(base_url=tls_server.http_url, verify=context) as client, pytest.raises(httpx.TransportError):
                client.get("/health")
            with Client(tls_server.grpc_address, tls=tls, retry=ONCE, timeout_s=10) as grpc_client, pytest.raises(ConnectionFailedError):
                grpc_client.list_models()

    def test_plain_text_is_no_way_in(self, tls_server: ServerProcess) -> None:
        address = tls_server.http_url.removeprefix("https://")
        with httpx.Client(base_url=f"http://{address}") as client, contextlib.suppress(httpx.TransportError):
            assert client.get("/health").status_code >= 400
        plain = tls_server.grpc_address.removeprefix("grpcs://")
        with Client(plain, retry=ONCE, timeout_s=10) as grpc_client, pytest.raises(ConnectionFailedError):
            grpc_client.list_models()

    def test_a_server_that_the_client_does_not_trust_is_not_called(
        self, tls_server: ServerProcess, stranger: Authority, client_pair: Pair
    ) -> None:
        tls = Tls(ca_file=str(stranger.ca), cert_file=str(client_pair.cert), key_file=str(client_pair.key))
        with Client(tls_server.grpc_address, tls=tls, retry=ONCE, timeout_s=10) as client, pytest.raises(ConnectionFailedError):
            client.list_models()

    def test_the_lines_that_it_prints_work_as_pasted(
        self, tls_server: ServerProcess, authority: Authority, client_pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ATTENDANT_TLS_CA", str(authority.ca))
        monkeypatch.setenv("ATTENDANT_CLIENT_CERT", str(client_pair.cert))
        monkeypatch.setenv("ATTENDANT_CLIENT_KEY", str(client_pair.key))
        monkeypatch.setenv("ATTENDANT_API_KEY", self.key or "")
        for line in tls_server.pasted_lines:
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert "there was a little girl" in done.stdout

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}
