"""What an address and TLS files may be, and what a user hears of those that cannot be used."""

from pathlib import Path

import pytest

from attendant_client import Client, Tls
from attendant_client.connection import make_connection
from tests.certificates import Authority


@pytest.mark.parametrize(
    ("url", "is_tls"),
    [("h:1", False), ("grpc://h:1", False), ("grpcs://h:1", True), ("https://h:1", True), ("https://[::1]:9000/", True)],
)
def test_the_scheme_says_whether_it_is_tls(url: str, is_tls: bool) -> None:
    assert (make_connection(url).credentials is not None) == is_tls


def test_files_ask_for_tls_and_plain_text_contradicts_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    tls = Tls(ca_file=str(authority.ca), cert_file=str(pair.cert), key_file=str(pair.key))
    assert make_connection("h:1", tls=tls).credentials is not None
    with pytest.raises(ValueError, match="'grpc://h:1' is plain text, and TLS was asked for"):
        make_connection("grpc://h:1", tls=tls)


@pytest.mark.parametrize(
    ("ca", "cert", "key", "words"),
    [
        ("absent.pem", None, None, r"The TLS file .*absent.pem cannot be read: No such file"),
        ("client.key", None, None, r"The TLS files .* cannot be used"),
        (None, "client.pem", None, "belong together"),
        (None, "client.pem", "other.key", "cannot be used: key values mismatch"),
        (None, "locked.pem", "locked.key", "cannot be used"),
    ],
)
def test_files_that_do_not_work_are_explained_at_once(
    tmp_path: Path, ca: str | None, cert: str | None, key: str | None, words: str
) -> None:
    authority = Authority(tmp_path)
    for name in ("client", "other"):
        authority.issue(name)
    authority.issue("locked", passphrase=b"secret")
    ca, cert, key = (None if name is None else str(tmp_path / name) for name in (ca, cert, key))
    with pytest.raises(ValueError, match=words):
        Client("h:1", tls=Tls(ca_file=ca, cert_file=cert, key_file=key))


def test_http_is_told_from_grpc() -> None:
    with pytest.raises(ValueError, match="give the server's gRPC port"):
        make_connection("http://127.0.0.1:8000")
