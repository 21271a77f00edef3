"""How often outputs are handed on: what begins or ends a sequence at once, what is between as often as it is cheap.

Carrying a piece of text to its reader (detokenising, a message, a system call, the reader's own work where it shares the
machine) costs about the same for one token as for eight. With many streams on few cores it would take from the model what
it gives the readers, so pieces wait and are merged until all of them together take a small share of the processor.
"""

import asyncio
from collections.abc import Callable, Sequence

from attendant_engine.types import EngineOutput, SequenceOutput
from attendant_server.link.pending import PendingOutputs

MAX_WAIT_S = 0.1
"""A piece never waits longer; ten times a second still reads as flowing text."""

_PIECE_S = 0.2e-3  # processor time of one piece, its reader on the same machine included: measured over gRPC, one stream each
_SHARE = 0.05  # of the processor, for pieces
_MIN_WAIT_S = 0.005  # less is not worth a timer


def wait_s(num_streams: int, num_cores: float) -> float:
    """Return how long pieces of ``num_streams`` are to be gathered on ``num_cores``; 0 is not at all."""
    wanted_s = num_streams * _PIECE_S / (_SHARE * num_cores)
    return 0.0 if wanted_s < _MIN_WAIT_S else min(wanted_s, MAX_WAIT_S)


class Pacer:
    """Outputs of one engine on their way to ``dispatch``. To be made and used on the running event loop."""

    def __init__(self, dispatch: Callable[[EngineOutput], None], *, num_cores: float) -> None:
        self._dispatch = dispatch
        self._num_cores = num_cores
        self._loop = asyncio.get_running_loop()
        self._pending = PendingOutputs()
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, outputs: Sequence[EngineOutput]) -> None:
        """Hand on what one step gave, now or soon."""
        wait = wait_s(len(outputs), self._num_cores)
        pending, edges = self._pending, []
        for output in outputs:
            pending.add(output)
            if not isinstance(output, SequenceOutput) or output.seed is not None or output.finish_reason is not None:
                edges.append(output)
        due_s = self._last_s + wait
        if self._loop.time() >= due_s:
            self.flush()
            return
        for output in edges:
            self._dispatch(pending.take_one(output))
        if self._timer is None and len(pending) > 0:
            self._timer = self._loop.call_at(due_s, self.flush)

    def flush(self) -> None:
        """Hand everything on now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._last_s = self._loop.time()
        for output in self._pending.take():
            self._dispatch(output)
