"""Processes that outlive the process that started them: this one takes them over, so that it can see them end.

Ray's agents notice that their cluster is gone only after a second or two, and a worker that hangs never does. Linux
alone has the means (prctl(2), PR_SET_CHILD_SUBREAPER); elsewhere there is nothing to wait for.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(timeout_s: float) -> None:
    """Wait for every child of this process to end by itself, and kill those that have not after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while _reap():
        if time.monotonic() >= deadline_s:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _reap() -> bool:
    """Take note of children that have ended; return whether others still run."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    except ChildProcessError:
        return False


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
