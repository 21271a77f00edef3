"""Counts the requests that end before a task of the gateway has them; the tasks count their own.

A request is counted under its route's path as it is written in the code, so the label has as many values as there are
routes, and one for every path that is none.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from starlette.routing import compile_path
from starlette.types import Scope

from attendant_server.errors import ServingError
from attendant_server.gateway.interface import GatewayTasks
from attendant_server.http_api.call import HANDED_OVER_KEY

UNKNOWN_ROUTE = "unknown_route"


class RefusalCounter:
    """Counts in the gateway's metrics; ``paths`` are those of the routes, in the order in which they are tried."""

    def __init__(self, gateway: Callable[[], GatewayTasks], paths: Iterable[str]) -> None:
        self._gateway = gateway
        # The path as documented ({model}, not {model:path}) and what it matches.
        self._patterns = [(name, pattern) for pattern, name, _ in map(compile_path, paths)]

    def count(self, scope: Scope, code: str) -> None:
        """Count the request unless the gateway does."""
        if scope.get(HANDED_OVER_KEY):
            return
        # Without a gateway yet there is nothing to count in.
        with suppress(ServingError):
            self._gateway().count_refusal(self._endpoint(scope["path"]), code)

    def _endpoint(self, path: str) -> str:
        return next((name for name, pattern in self._patterns if pattern.match(path)), UNKNOWN_ROUTE)
