"""What is done to a server: a process of it killed or stopped, a host cut off, or all of it replaced by an update."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.chaos.nodes import Nodes
from tests.e2e.callers import MODEL
from tests.e2e.processes import descendants
from tests.e2e.rolling_update import update
from tests.e2e.server_process import ServerProcess

_SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
_UPDATE_WITHIN_S = 180
_QUEUE = 3000  # what an update changes, every time to another value
PROCESS_FAULTS = (*sorted(_SIGNALS), "mixed")


class Fault(Protocol):
    """One kind of harm."""

    async def strike(self, rng: random.Random) -> str:
        """Do it to whom ``rng`` chooses; return what was done."""
        ...

    async def mend(self) -> None:
        """Bring back what does not come back by itself."""
        ...


class LostProcess:
    """The process of an engine replica is killed, or stopped as if it hung."""

    def __init__(self, server: ServerProcess, kind: str) -> None:
        self._server = server
        self._kind = kind
        self._victim = 0

    async def strike(self, rng: random.Random) -> str:
        """Signal one of them."""
        kind = rng.choice(sorted(_SIGNALS)) if self._kind == "mixed" else self._kind
        self._victim = rng.choice(sorted(pid for pid, command in descendants(self._server.pid).items() if f"engine-{MODEL}" in command))
        os.kill(self._victim, _SIGNALS[kind])
        return f"{kind} of {self._victim}"

    async def mend(self) -> None:
        """End what was only stopped, should Serve have left it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._victim, signal.SIGKILL)


class LostHost:
    """A host with an engine replica is cut off; later it comes back as a new one."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._victim = 0

    async def strike(self, rng: random.Random) -> str:
        """Cut one off."""
        self._victim = rng.choice(self._nodes.victims())
        self._nodes.cut(self._victim)
        return f"host {self._victim} cut off"

    async def mend(self) -> None:
        """Let it join again."""
        await asyncio.to_thread(self._nodes.replace, self._victim)


class RollingUpdate:
    """Every replica, the gateway's too, is replaced by one with another setting."""

    def __init__(self, server: ServerProcess, model: Path, settings: Mapping[str, object]) -> None:
        self._server = server
        self._model = model
        self._settings = settings
        self._num_updates = 0

    async def strike(self, rng: random.Random) -> str:
        """Update, and wait until all of it runs."""
        self._num_updates += 1
        settings = {**self._settings, "max_queue": _QUEUE + self._num_updates}
        await update(self._server, self._model, settings, within_s=_UPDATE_WITHIN_S)
        return f"update {self._num_updates}"

    async def mend(self) -> None:
        """Nothing is left to do."""
