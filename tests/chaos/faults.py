"""What is done to a server: a process of it killed or stopped, or a host cut off."""

import asyncio
import contextlib
import os
import random
import signal
from typing import Protocol

from tests.chaos.nodes import Nodes
from tests.e2e.callers import MODEL
from tests.e2e.processes import descendants
from tests.e2e.server_process import ServerProcess

_SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
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
