"""API keys: who may call, from a file with one ``tenant: key`` a line, and ``tenant: key admin`` for who may load models.

With no file nobody is asked for a key. With one, everything that is not exactly a known key is refused. Keys are kept
as digests, every one of them is compared each time, and no message ever holds a key.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from attendant_server.errors import ServingError

_TENANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
MIN_KEY_CHARS = 8
MAX_KEYS = 10_000
ADMIN = "admin"
"""The role behind a key that may load and unload models."""


class ApiKeyFileError(ValueError):
    """The key file cannot be used; the message names the line and the fix, for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeys:
    """The known keys as (tenant, sha256 of the key); ``required`` False lets everybody in as tenant "".

    ``admins`` are the digests of the keys that may load and unload models.
    """

    digests: tuple[tuple[str, bytes], ...] = ()
    required: bool = False
    admins: tuple[bytes, ...] = ()

    @classmethod
    def load(cls, path: str | None) -> "ApiKeys":
        """Read the key file; None asks for no keys. Raises ``ApiKeyFileError``."""
        if path is None:
            return cls()
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise ApiKeyFileError(f"the API key file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ApiKeyFileError(f"the API key file {path} is not UTF-8 text; write one 'tenant: key' a line") from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> "ApiKeys":
        """Read ``tenant: key`` lines; empty lines and those that start with # are skipped. A tenant may have several keys."""
        found: dict[bytes, str] = {}
        admins: list[bytes] = []
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            tenant, colon, key = (part.strip() for part in line.partition(":"))
            if not colon:
                raise ApiKeyFileError(f"line {number} of the API key file has no colon; write 'tenant: key'")
            if not _TENANT.match(tenant):
                raise ApiKeyFileError(
                    f"line {number} of the API key file has a tenant that is not 1 to 64 letters, digits, dots, dashes or underscores"
                )
            first, _, role = key.partition(" ")
            is_admin = role.strip() == ADMIN
            key = first if is_admin else key
            if len(key) < MIN_KEY_CHARS or not key.isascii() or any(c.isspace() for c in key):
                raise ApiKeyFileError(
                    f"line {number} of the API key file has a key that is not at least {MIN_KEY_CHARS} ASCII characters without spaces, "
                    f"with or without the word {ADMIN} behind it"
                )
            digest = _digest(key)
            if digest in found:
                raise ApiKeyFileError(f"line {number} of the API key file repeats an earlier key; every key belongs to one tenant")
            found[digest] = tenant
            if is_admin:
                admins.append(digest)
        if not found:
            raise ApiKeyFileError("the API key file holds no key, so nobody could call; write one 'tenant: key' a line")
        if len(found) > MAX_KEYS:
            raise ApiKeyFileError(f"the API key file holds {len(found)} keys; at most {MAX_KEYS} are taken")
        return cls(digests=tuple((tenant, digest) for digest, tenant in found.items()), required=True, admins=tuple(admins))

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants, each once, in the order of the file."""
        return tuple(dict.fromkeys(tenant for tenant, _ in self.digests))

    def authenticate(self, authorization: str | None) -> str:
        """Return the tenant of an ``Authorization`` value. Raises ``ServingError`` invalid_api_key."""
        return self._identify(authorization)[0] if self.required else ""

    def require_admin(self, authorization: str | None) -> None:
        """Raise ``ServingError`` permission_denied for a key without the role, invalid_api_key for none at all."""
        _, given = self._identify(authorization)
        if given not in self.admins:
            raise ServingError(
                "permission_denied", f"this key may not do that; use one behind which the server's key file has the word {ADMIN}"
            )

    def _identify(self, authorization: str | None) -> tuple[str, bytes]:
        """Return the tenant and the digest of the key."""
        if authorization is None or not authorization.strip():
            raise ServingError("invalid_api_key", "this server asks for an API key; send it as 'Authorization: Bearer KEY'")
        scheme, _, key = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ServingError("invalid_api_key", "the Authorization header is not of the form 'Bearer KEY'")
        given = _digest(key.strip())
        tenant: str | None = None
        for name, digest in self.digests:
            # No early end: the time taken must not say which key was close.
            if hmac.compare_digest(given, digest):
                tenant = name
        if tenant is None:
            raise ServingError("invalid_api_key", "the API key is not known to this server; check it, or ask the operator for one")
        return tenant, given


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
