"""One ``attendant serve`` as an operator starts it: its own process, found by what it prints, stopped by a signal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_HTTP = re.compile(r"^\s*HTTP\s+(https?://\S+)", re.MULTILINE)
_GRPC = re.compile(r"^\s*gRPC\s+(\S+)", re.MULTILINE)


class ServerProcess:
    """Starts at once; ``wait_ready`` returns when the addresses were printed. Its output is kept for the message of a failure."""

    def __init__(self, *args: str, log_dir: Path, cwd: Path | None = None) -> None:
        self._stderr = (log_dir / "server.stderr").open("wb+")
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [str(Path(sys.executable).with_name("attendant")), "serve", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return "".join(self._lines)

    @property
    def stderr(self) -> str:
        """What it logged so far."""
        return Path(self._stderr.name).read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def http_url(self) -> str:
        """Base address of HTTP, without a slash at its end."""
        return self._found(_HTTP)

    @property
    def grpc_address(self) -> str:
        """host:port of gRPC."""
        return self._found(_GRPC)

    @property
    def pasted_lines(self) -> tuple[str, ...]:
        """The shell lines that it offers to paste."""
        _, _, tail = self.stdout.partition("Try it:\n")
        return tuple(line.strip() for line in tail.splitlines() if line.strip())

    def wait_ready(self, timeout_s: float) -> float:
        """Wait until it says that it is ready; return the seconds since its start."""
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while len(self.pasted_lines) < 3:
                remaining_s = deadline_s - time.monotonic()
                if self._has_ended or remaining_s <= 0 or not self._news.wait(remaining_s):
                    raise AssertionError(f"the server did not become ready\n{self.stdout}\n{self.stderr}")
        return time.monotonic() - self.started_s

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait_exit(self, timeout_s: float) -> int:
        """Return its exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self, timeout_s: float = 60) -> int:
        """Ask it to stop and return its exit code; past the time it is killed and the test fails."""
        try:
            if self._process.poll() is None:
                self.signal(signal.SIGTERM)
            return self.wait_exit(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait_exit(10)
            raise AssertionError(f"the server did not stop within {timeout_s} s\n{self.stderr}") from None
        finally:
            self._stderr.close()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _found(self, pattern: re.Pattern[str]) -> str:
        match = pattern.search(self.stdout)
        assert match is not None, f"nothing like {pattern.pattern} was printed:\n{self.stdout}"
        return match[1]
