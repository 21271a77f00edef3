"""Ends work whose caller has gone: ASGI says so on ``receive``, and nobody else listens there once the body is read."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from attendant_server.errors import ServingError

ResultT = TypeVar("ResultT")


async def until_disconnect(receive: Receive) -> None:
    """Return when the caller has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return what ``work`` returns; cancel it when the caller goes, and raise ``ServingError`` cancelled."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(until_disconnect(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ServingError("cancelled", "the caller went away before the answer was ready")
    finally:
        await cancel_and_wait(task, watcher)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and wait until they have cleaned up; their errors have been seen or no longer matter."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
