"""Chat templates in processes that can be killed: the parent's end of ``template_child``.

A template is a program that came with the weights. Here it gets a process of its own, without our environment, with limits
that the system enforces, and a spare beside it, so that a rendering that was killed does not hold up the next one.
"""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from attendant_engine.errors import InvalidRequestError, RequestFaultError
from attendant_engine.tokenizers.template_child import FAULTED, REFUSED, RENDERED, read_frame, write_frame

MAX_RENDER_CPU_S = 0.1
"""Processor seconds of one rendering; real ones take about a thousandth."""
MAX_WAIT_S = 30.0
"""Of the clock on the wall, for a process that neither answers nor uses the processor; a start on a busy machine is within it."""
NUM_PROCESSES = 2
"""One that renders and one to go on with when that was killed; they also render side by side."""

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from attendant_engine.tokenizers import template_child as c; c.main()"


class _Child:
    """One process, started when made; the templates are sent at once, and their confirmation is read before the first answer."""

    def __init__(self, templates: bytes, max_render_cpu_s: float) -> None:
        # Whole paths: it starts in another directory, whose files are not to be found.
        path = [os.path.abspath(entry) for entry in sys.path if entry]
        command = [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(path), repr(max_render_cpu_s)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._sink, self._source = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._source, select.POLLIN)
        self._is_started = False
        self._templates = templates

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def call(self, request: bytes) -> bytes | None:
        """Return the answer, None when the process ended, or gave no sign for too long."""
        try:
            if not self._is_started:
                write_frame(self._sink, self._templates)
                if self._read() is None:
                    return None
                self._is_started = True
            write_frame(self._sink, request)
            return self._read()
        except OSError:
            return None

    def _read(self) -> bytes | None:
        # Request and answer alternate, so nothing waits in the buffer, where poll would not see it.
        return read_frame(self._source) if self._poll.poll(MAX_WAIT_S * 1000) else None

    def end(self) -> int:
        """End the process and return what it ended with."""
        self._process.kill()
        for pipe in (self._sink, self._source):
            with suppress(OSError):
                pipe.close()
        return self._process.wait()


class TemplateProcesses:
    """The processes of one checkpoint's templates. Safe to use from several threads; started by ``warm_up`` or the first call."""

    def __init__(self, sources: Mapping[str, str], *, max_render_cpu_s: float = MAX_RENDER_CPU_S) -> None:
        self._templates = json.dumps(dict(sources)).encode()
        self._max_render_cpu_s = max_render_cpu_s
        self._lock = threading.Lock()
        # The last one used comes first: it is started, and warm in the caches.
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._children: set[_Child] = set()
        weakref.finalize(self, _end_all, self._children)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that there are now."""
        with self._lock:
            return tuple(child.pid for child in self._children)

    def warm_up(self) -> None:
        """Start the processes, without waiting until they are there."""
        with self._lock:
            while len(self._children) < NUM_PROCESSES:
                self._add()

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return the prompt that the template makes of ``variables``, which are JSON.

        Raises ``InvalidRequestError`` when the template refuses them and ``RequestFaultError`` when it takes too much.
        """
        request = json.dumps({"template": template, "variables": variables}).encode()
        self.warm_up()
        # A process that was idle may have been ended by others; what then fails twice is the template's fault.
        for is_last in (False, True):
            child = self._take()
            answer = child.call(request)
            if answer is not None:
                self._idle.put(child)
                return _read_answer(answer)
            code = self._replace(child)
            if code == -signal.SIGPROF:
                raise _fault(f"ran for more than {self._max_render_cpu_s:g} s of processor time on these messages and was stopped")
            if is_last:
                raise _fault("ended its process on these messages")
        raise AssertionError("the second attempt returns or raises")

    def _take(self) -> _Child:
        try:
            return self._idle.get(timeout=MAX_WAIT_S)
        except queue.Empty:
            raise _fault(f"found no process within {MAX_WAIT_S:g} s") from None

    def _replace(self, child: _Child) -> int:
        with self._lock:
            self._children.discard(child)
            self._add()
        return child.end()

    def _add(self) -> None:
        child = _Child(self._templates, self._max_render_cpu_s)
        self._children.add(child)
        self._idle.put(child)


def _end_all(children: set[_Child]) -> None:
    for child in children:
        child.end()


def _read_answer(answer: bytes) -> str:
    status, text = answer[:1], answer[1:].decode("utf-8", "surrogatepass")
    if status == RENDERED:
        return text
    if status == FAULTED:
        raise _fault(f"{text} on these messages")
    verb = "refuses" if status == REFUSED else "cannot render"
    raise InvalidRequestError(f"The model's chat template {verb} these messages: {text}", param="messages")


def _fault(what: str) -> RequestFaultError:
    return RequestFaultError(f"The model's chat template {what}.", param="messages")
