"""A headless Chromium driven over its DevTools pipe: messages of JSON that end in a zero byte, on two file descriptors.

Protocol: https://chromedevtools.github.io/devtools-protocol/. One tab, one thread, and every wait has a deadline.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.external_tools import Program

TIMEOUT_S = 30.0
_FLAGS = (
    "--headless",
    # Only pages of ours are opened, and a root user's Chromium has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab. ``problems`` has what its pages complained of, ``urls`` what they asked for."""

    def __init__(self, program: Program, *, profile_dir: Path) -> None:
        from_us, self._write_fd = os.pipe()
        self._read_fd, to_us = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; bash moves them there.
        move = ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash", str(program.path)]
        self._process = subprocess.Popen(
            [*move, *_FLAGS, f"--user-data-dir={profile_dir}"],
            pass_fds=(from_us, to_us),
            env=program.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        self._received = b""
        self._last_id = 0
        self._has_loaded = False
        self._session_id: str | None = None
        self.problems: list[str] = []
        self.urls: list[str] = []

    def __enter__(self) -> "Browser":
        target = self._call("Target.createTarget", url="about:blank")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session_id = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT_S)
        os.close(self._write_fd)
        os.close(self._read_fd)

    def open(self, url: str, *, until: str) -> None:
        """Load ``url`` and wait for ``until``, an expression of the page's."""
        # By way of an empty page: an address that differs in its fragment alone would load nothing.
        for each in ("about:blank", url):
            self._has_loaded = False
            self._call("Page.navigate", url=each)
            deadline_s = time.monotonic() + TIMEOUT_S
            while not self._has_loaded:
                self._note(self._receive(deadline_s, f"loading {each}"))
        self.wait_for(until)

    def set_width(self, width: int) -> None:
        """Show pages as on a screen of this many pixels across."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)

    def run(self, script: str) -> Any:
        """Return the (awaited) value of an expression, as JSON. Fails with what the page threw."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until ``condition`` is true; it is looked at whenever the document changes."""
        self.run(
            f"""new Promise((resolve) => {{
              const check = () => ({condition}) && (observer.disconnect(), resolve());
              const observer = new MutationObserver(check);
              observer.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
              check();
            }})"""
        )

    def press(self, key: str) -> None:
        """Press and release a key, by its DOM name."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _call(self, method: str, **params: Any) -> Mapping[str, Any]:
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self._session_id is not None:
            message["sessionId"] = self._session_id
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._receive(deadline_s, method)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: Mapping[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self, deadline_s: float, method: str) -> Mapping[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline_s - time.monotonic()))
            data = os.read(self._read_fd, 1 << 16) if ready else b""
            assert data, f"the browser {'ended during' if ready else 'did not answer'} {method}; {self.problems}"
            self._received += data
        raw, _, self._received = self._received.partition(b"\0")
        message: Mapping[str, Any] = json.loads(raw)
        return message

    def _note(self, event: Mapping[str, Any]) -> None:
        match event.get("method"):
            case "Page.loadEventFired":
                self._has_loaded = True
            case "Runtime.exceptionThrown":
                self.problems.append(str(event["params"]["exceptionDetails"]))
            case "Log.entryAdded" if event["params"]["entry"]["level"] in ("error", "warning"):
                self.problems.append(event["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                self.urls.append(event["params"]["request"]["url"])
