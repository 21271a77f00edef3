"""TLS of both ports from the operator's files: checked before anything starts, in sentences that name the flag.

With an authority for clients (``--tls-client-ca``) it is mutual: nobody connects without a certificate of that authority.
Knows files and OpenSSL's errors; the listeners and Ray's front take what they need from here.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from attendant_server.config import Settings


class TlsFileError(ValueError):
    """The TLS files cannot be used; the message names the flag, the file and the fix, for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Absolute paths of files in PEM form that fit together: our certificate with its chain, its key, the clients' authority."""

    cert: Path
    key: Path
    client_ca: Path | None

    @property
    def is_mutual(self) -> bool:
        """True where clients must show a certificate."""
        return self.client_ca is not None


def load_tls(settings: Settings) -> TlsFiles | None:
    """Return the checked files of the settings, None for plain text. Raises ``TlsFileError``."""
    if settings.tls_cert is None and settings.tls_key is None and settings.tls_client_ca is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        given, missing = (
            ("--tls-key", "--tls-cert")
            if settings.tls_key is not None
            else ("--tls-cert", "--tls-key")
            if settings.tls_cert is not None
            else ("--tls-client-ca", "--tls-cert and --tls-key")
        )
        raise TlsFileError(f"{given} is given without {missing}; TLS needs a certificate and its key.")
    cert, key = _readable(settings.tls_cert, "--tls-cert"), _readable(settings.tls_key, "--tls-key")
    _check_pair(cert, key)
    client_ca = None
    if settings.tls_client_ca is not None:
        client_ca = _readable(settings.tls_client_ca, "--tls-client-ca")
        _check_authority(client_ca)
    return TlsFiles(cert=cert, key=key, client_ca=client_ca)


def _readable(path: str, flag: str) -> Path:
    found = Path(path).resolve()
    try:
        found.read_bytes()
    except OSError as error:
        raise TlsFileError(f"The file of {flag}, {path}, cannot be read: {error.strerror}.") from None
    return found


def _check_pair(cert: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if b"CERTIFICATE-----" not in cert.read_bytes():
        raise TlsFileError(f"The file of --tls-cert, {cert}, has no certificate in PEM form (-----BEGIN CERTIFICATE-----).")
    if b"PRIVATE KEY-----" not in key.read_bytes():
        raise TlsFileError(f"The file of --tls-key, {key}, has no private key in PEM form (-----BEGIN PRIVATE KEY-----).")
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _EncryptedKeyError:
        raise TlsFileError(f"The key in {key} is encrypted; give one without a passphrase, readable by this user alone.") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFileError(
                f"The key in {key} is not that of the first certificate in {cert}; give the pair that belongs together."
            ) from None
        raise TlsFileError(f"The certificate in {cert} and the key in {key} cannot be used: {_reason(error)}.") from None


def _check_authority(client_ca: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise TlsFileError(f"The file of --tls-client-ca, {client_ca}, has no certificates that can be used: {_reason(error)}.") from None


class _EncryptedKeyError(Exception):
    """OpenSSL asks for a passphrase."""


def _no_password() -> NoReturn:
    raise _EncryptedKeyError


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "OpenSSL does not say why").replace("_", " ").lower()
