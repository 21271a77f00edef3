"""What an operator hears of TLS files that do not work, before anything starts."""

from pathlib import Path

import pytest

from attendant_server.config import Settings
from attendant_server.hosting.tls import TlsFileError, load_tls
from tests.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_without_files_it_is_plain_text() -> None:
    assert load_tls(Settings()) is None


def test_files_that_fit_are_taken(authority: Authority) -> None:
    pair = authority.issue("server")
    tls = load_tls(Settings(tls_cert=str(pair.cert), tls_key=str(pair.key)))
    assert tls is not None
    assert (tls.cert, tls.key, tls.is_mutual) == (pair.cert, pair.key, False)
    mutual = load_tls(Settings(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.ca)))
    assert mutual is not None
    assert mutual.is_mutual


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "words"),
    [
        ("server.pem", None, None, "--tls-cert is given without --tls-key"),
        (None, "server.key", None, "--tls-key is given without --tls-cert"),
        (None, None, "authority.pem", "--tls-client-ca is given without --tls-cert and --tls-key"),
        ("absent.pem", "server.key", None, "The file of --tls-cert, .*absent.pem, cannot be read: No such file"),
        ("server.pem", "absent.key", None, "The file of --tls-key"),
        ("server.key", "server.key", None, "has no certificate in PEM form"),
        ("server.pem", "server.pem", None, "has no private key in PEM form"),
        ("server.pem", "other.key", None, "is not that of the first certificate"),
        ("server.pem", "locked.key", None, "is encrypted; give one without a passphrase"),
        ("broken.pem", "server.key", None, "cannot be used"),
        ("server.pem", "server.key", "server.key", "--tls-client-ca.* has no certificates that can be used"),
        ("server.pem", "server.key", "absent.pem", "The file of --tls-client-ca"),
    ],
)
def test_files_that_do_not_work_are_explained(
    tmp_path: Path, authority: Authority, cert: str | None, key: str | None, client_ca: str | None, words: str
) -> None:
    authority.issue("server")
    authority.issue("other")
    authority.issue("locked", passphrase=b"secret")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    cert, key, client_ca = (None if name is None else str(tmp_path / name) for name in (cert, key, client_ca))
    with pytest.raises(TlsFileError, match=words):
        load_tls(Settings(tls_cert=cert, tls_key=key, tls_client_ca=client_ca))
