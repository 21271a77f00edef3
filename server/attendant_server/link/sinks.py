"""Who waits for what on a link: one sink a live request, and the news that a replica is lost for all of them.

Counts the prompt tokens of those that have had no output yet, which is what queues at the replica.
"""

import logging
from dataclasses import dataclass

from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, OutputError, PooledOutput, SequenceOutput
from attendant_server.link.base import OutputSink

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Entry:
    """A live request; ``open_indices`` are its sequences that have not ended, None for a pooling request.

    ``num_queued_tokens`` is what it adds to the queue, 0 after its first output.
    """

    sink: OutputSink
    open_indices: set[int] | None
    num_queued_tokens: int


class SinkTable:
    """The live requests of one link, by id. A sink that raises is dropped; it must not harm its neighbours."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._num_queued_tokens = 0

    @property
    def num_queued_tokens(self) -> int:
        """Tokens, as ``add`` was told, of the live requests that have had no output."""
        return self._num_queued_tokens

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def add(self, request: EngineRequest, sink: OutputSink, *, num_queued_tokens: int = 0) -> None:
        """Send the outputs of ``request`` to ``sink`` from now on."""
        indices = set(range(request.n)) if isinstance(request, GenerationRequest) else None
        self._entries[request.request_id] = _Entry(sink, indices, num_queued_tokens)
        self._num_queued_tokens += num_queued_tokens

    def discard(self, request_id: str) -> bool:
        """Forget a request; return whether it was live."""
        entry = self._entries.pop(request_id, None)
        if entry is not None:
            self._leave_queue(entry)
        return entry is not None

    def dispatch(self, output: EngineOutput) -> None:
        """Hand an output to its request's sink; nobody waits for those of requests that were discarded."""
        entry = self._entries.get(output.request_id)
        if entry is None:
            return
        self._leave_queue(entry)
        if entry.open_indices is None or not isinstance(output, SequenceOutput):
            del self._entries[output.request_id]
        elif output.finish_reason is not None or output.error is not None:
            entry.open_indices.discard(output.index)
            if not entry.open_indices:
                del self._entries[output.request_id]
        self._call(entry.sink, output)

    def fail_all(self, message: str) -> None:
        """End every live request with ``not_ready``."""
        entries, self._entries = self._entries, {}
        self._num_queued_tokens = 0
        error = OutputError(code="not_ready", message=message)
        for request_id, entry in entries.items():
            if entry.open_indices is None:
                self._call(entry.sink, PooledOutput(request_id=request_id, error=error))
            for index in sorted(entry.open_indices or ()):
                self._call(entry.sink, SequenceOutput(request_id=request_id, index=index, finish_reason="error", error=error))

    def _leave_queue(self, entry: _Entry) -> None:
        self._num_queued_tokens -= entry.num_queued_tokens
        entry.num_queued_tokens = 0

    def _call(self, sink: OutputSink, output: EngineOutput) -> None:
        try:
            sink(output)
        except Exception:
            _log.exception("an output could not be taken")
            self._entries.pop(output.request_id, None)
