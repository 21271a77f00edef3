"""What the ASGI path knows of a call: its id, its tenant, its deadline.

The middleware puts the id and the tenant into the scope; a route makes the gateway's ``CallContext`` of them.
"""

import math
import re
import time
import uuid
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import Scope

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import CallContext

REQUEST_ID_HEADER = b"x-request-id"
TIMEOUT_HEADER = b"x-request-timeout-s"
REQUEST_ID_KEY = "attendant.request_id"
TENANT_KEY = "attendant.tenant"
HANDED_OVER_KEY = "attendant.handed_over"
OPEN_PATHS = frozenset({"/health", "/ready"})
"""An orchestrator's probes have no key; all other paths are closed unless the key is right, those yet to be written too."""

_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def find_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of the (lower-case) header ``name``."""
    return next((value for key, value in headers if key == name), None)


def take_request_id(given: bytes | None) -> str:
    """Return the caller's request id if it is 1 to 128 printable ASCII characters without spaces, else a new one."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return uuid.uuid4().hex


def request_id_of(scope: Scope) -> str:
    """Return the request's id; "" on an app that lacks the middleware."""
    return str(scope.get(REQUEST_ID_KEY, ""))


def call_context(request: Request, endpoint: str) -> CallContext:
    """Return what the gateway may know of this call, which is the gateway's to count from here on: ask for it last.

    Raises ``ServingError`` for a timeout header that is no duration.
    """
    context = CallContext(
        request_id=request_id_of(request.scope),
        endpoint=endpoint,
        tenant=str(request.scope.get(TENANT_KEY, "")),
        deadline_s=_deadline_s(find_header(request.scope["headers"], TIMEOUT_HEADER)),
    )
    request.scope[HANDED_OVER_KEY] = True
    return context


def _deadline_s(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        timeout_s = float(value)
    except ValueError:
        timeout_s = math.nan
    if not timeout_s > 0:
        name = TIMEOUT_HEADER.decode()
        shown = ascii(value[:40].decode("latin-1"))
        raise ServingError("invalid_value", f"the {name} header is {shown}; send a number of seconds above 0, for example 30", param=name)
    return time.monotonic() + timeout_s if math.isfinite(timeout_s) else None
