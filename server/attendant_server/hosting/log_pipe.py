"""One place for the logs of several processes of one machine: a named pipe whose lines go to the operator's standard error.

Ray would write a replica's standard error into a file of its own. Lines of up to 4096 bytes arrive whole, whoever else
writes (pipe(7)). Not for clusters of several machines: there, Ray's files are what log collectors read.
"""

import os
import select
import sys
import threading
from pathlib import Path
from typing import TextIO

_CHUNK_BYTES = 1 << 16


class LogPipe:
    """The reading end, and the thread that copies from it; for the process that the operator started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Open for both, so that it neither waits for a writer now nor ends with the last one.
        self._log = os.open(path, os.O_RDWR)
        self._end, self._ask_end = os.pipe()
        self._thread = threading.Thread(target=self._copy, name="attendant-logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copy what was written so far, and end."""
        os.close(self._ask_end)
        self._thread.join()
        os.close(self._end)
        os.close(self._log)

    def _copy(self) -> None:
        while True:
            readable, _, _ = select.select((self._log, self._end), (), ())
            if self._log in readable:
                sys.stderr.buffer.write(os.read(self._log, _CHUNK_BYTES))
                sys.stderr.flush()
            elif self._end in readable:
                return


def open_log(path: str | None) -> TextIO:
    """Return where a process should log: the pipe at ``path``, or its own standard error for None. Stays open for the process's life."""
    # Line by line, so that a line is one write.
    return sys.stderr if path is None else open(path, "w", buffering=1, encoding="utf-8")
