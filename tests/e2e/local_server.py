"""A whole local server on a thread of the test's own process: real sockets, real engines, ready in a fraction of a second."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from attendant_server.config import Settings
from attendant_server.hosting.local import LocalServer


class ServerThread:
    """Serves while the ``with`` block lasts; ``call`` runs a function on the server's event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = threading.Thread(target=self._run, name="server")
        self._is_ready: Future[tuple[LocalServer, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def __enter__(self) -> "ServerThread":
        self._thread.start()
        self._server, self._loop, self._stop = self._is_ready.result(60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"

    @property
    def url(self) -> str:
        """Base address of HTTP."""
        return f"http://127.0.0.1:{self._server.http_port}"

    @property
    def server(self) -> LocalServer:
        """The server; only ``call`` may touch it."""
        return self._server

    def call(self, function: Callable[[], Any]) -> Any:
        """Run ``function`` where the server lives and return its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._is_ready.done():
                raise
            self._is_ready.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        server = LocalServer(self._settings)
        try:
            await server.start()
            self._is_ready.set_result((server, asyncio.get_running_loop(), stop))
            await stop.wait()
        finally:
            await server.stop()
