"""The parent's end of a worker: start it, send it a command, stop it, and keep it still while another one runs."""

import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import HOME, ROOT

_SETTLE_S = 0.03
_STOP_TIMEOUT_S = 5.0


class WorkerError(Exception):
    """The worker cannot answer: it said why, ended or took too long. ``is_fatal``: its process is gone."""

    def __init__(self, message: str, *, is_fatal: bool, is_unsupported: bool = False) -> None:
        super().__init__(message)
        self.is_fatal = is_fatal
        self.is_unsupported = is_unsupported


class Worker:
    """One engine's process. Between calls it is stopped (``SIGSTOP``), so that no idle thread of it disturbs others."""

    def __init__(self, python: Path, module: str, *, num_threads: int) -> None:
        logs = HOME / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{module.rpartition('.')[2]}.log"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)}
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.peers.worker", module, str(num_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def call(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Let the worker run, answer and be still again. Raises ``WorkerError``."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        time.sleep(_SETTLE_S)
        try:
            self._process.stdin.write((json.dumps(command) + "\n").encode())
            self._process.stdin.flush()
            reply = self._reply(timeout_s)
        except BrokenPipeError:
            raise self._death() from None
        self._hold()
        if "error" in reply:
            raise WorkerError(reply["error"], is_fatal=False, is_unsupported=reply["unsupported"])
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self._process.kill()
                self._process.wait()
                raise WorkerError(f"no answer within {timeout_s:.0f} s", is_fatal=True)
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> WorkerError:
        try:
            code = self._process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        last = next((line for line in reversed(self._log.read_text(errors="replace").splitlines()) if line.strip()), "it said nothing")
        how = f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return WorkerError(f"its process ended with {how}: {last[:200]}", is_fatal=True)

    def _hold(self) -> None:
        """Stop the process and wait until it stands still (or has ended, which the next call reports)."""
        if self._process.poll() is not None:
            return
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
