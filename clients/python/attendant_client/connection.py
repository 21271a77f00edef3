"""Where the server is and how it is reached: address, key, TLS, and the options of the gRPC channel."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

DEFAULT_URL = "127.0.0.1:9000"
_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.%]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})$")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of a TLS connection, each in PEM form: the authority to trust (None: the system's), our certificate and key.

    Certificate and key are for servers that ask for them (mutual TLS); give both or neither.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An address and what goes with every call to it; ``credentials`` None is plain text."""

    address: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, Any], ...]


def make_connection(url: str, *, api_key: str | None = None, tls: Tls | bool = False) -> Connection:
    """Read ``host:port`` (``grpc://`` and, for TLS, ``grpcs://`` or ``https://`` may stand before it).

    Raises ``ValueError`` for an address or a file that cannot be used, with what would do.
    """
    scheme, _, rest = url.rpartition("://")
    match = _ADDRESS.match(rest.rstrip("/"))
    if scheme not in ("", "grpc", "grpcs", "https") or match is None or int(match["port"]) > 65535:
        hint = "; this client speaks gRPC, so give the server's gRPC port" if scheme in ("http", "https") else ""
        raise ValueError(f"{url!r} is not the address of a server; write host:port, for example {DEFAULT_URL}{hint}.")
    if scheme == "grpc" and tls is not False:
        raise ValueError(f"{url!r} is plain text, and TLS was asked for; write grpcs://{match[0]}.")
    is_tls = scheme in ("grpcs", "https") or tls is not False
    options: list[tuple[str, Any]] = [
        # Answers are as long as what was asked for.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # The retries are ours: they know which errors are worth it, and end at the call's deadline.
        ("grpc.enable_retries", 0),
        # A client has a connection of its own: two of them carry twice the streams.
        ("grpc.use_local_subchannel_pool", 1),
        # A server that starts is found soon, not after gRPC's default of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if match["host"] in _LOOPBACK:
        options.append(("grpc.enable_http_proxy", 0))
    return Connection(
        address=match[0],
        credentials=_credentials(tls if isinstance(tls, Tls) else Tls()) if is_tls else None,
        metadata=(("authorization", f"Bearer {api_key}"),) if api_key else (),
        options=tuple(options),
    )


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Return grpc's credentials; what grpc would report at the first call, in its log, is a ``ValueError`` here."""
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ValueError("A client certificate and its key belong together; give both or neither.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file is not None:
            # An encrypted key would otherwise ask for its passphrase on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except ssl.SSLError as error:
        files = ", ".join(file for file in (tls.ca_file, tls.cert_file, tls.key_file) if file is not None)
        reason = (error.reason or "not certificates in PEM form").replace("_", " ").lower()
        raise ValueError(f"The TLS files ({files}) cannot be used: {reason}.") from None
    except OSError as error:
        name = next((file for file in (tls.ca_file, tls.cert_file, tls.key_file) if file is not None and not Path(file).is_file()), "")
        raise ValueError(f"The TLS file {name} cannot be read: {error.strerror}.") from None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file), private_key=_read(tls.key_file), certificate_chain=_read(tls.cert_file)
    )


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
