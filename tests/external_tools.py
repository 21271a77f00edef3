"""Programs that are not Python packages: where they are, or how a test gets them, or why it is skipped without them.

Installed below ``.tools``, which git ignores; a lock keeps two test workers from installing at the same moment.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_TOOLS = _ROOT / ".tools"
_TIMEOUT_S = 110


def find_prometheus_program(name: str) -> Path:
    """Return ``prometheus`` or ``promtool``, unpacked from Debian's package where the machine has none; else skip the test."""
    if installed := shutil.which(name):
        return Path(installed)
    unpacked = _TOOLS / "prometheus" / "usr" / "bin" / name
    with _locked("prometheus"):
        if not unpacked.exists():
            _unpack_debian_prometheus()
    return unpacked


def find_buf() -> Path:
    """Return the ``buf`` that ``make check`` uses, installed through npm when it is not there yet; else skip the test."""
    buf = _TOOLS / "buf" / "node_modules" / ".bin" / "buf"
    if shutil.which("npm") is None and not buf.exists():
        pytest.skip("buf is an npm package, and npm is not installed here")
    with _locked("buf"):
        _run(["make", "--silent", "buf"], cwd=_ROOT, why="buf could not be installed through npm")
    return buf


def _unpack_debian_prometheus() -> None:
    # Unpacked, not installed: nothing is started, and nothing outside the checkout changes.
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("prometheus is not installed, and this is no Debian system to take its package from")
    folder = _TOOLS / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    why = "Debian's prometheus package could not be fetched"
    if os.geteuid() == 0:
        _run(["apt-get", "update", "--quiet"], cwd=folder, why=why)
    _run(["apt-get", "download", "--quiet", "prometheus"], cwd=folder, why=why)
    package = next(folder.glob("prometheus_*.deb"))
    _run(["dpkg-deb", "--extract", package.name, "."], cwd=folder, why=why)
    package.unlink()


def _run(command: list[str], *, cwd: Path, why: str) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{why}: `{' '.join(command)}` said: {error.stderr.strip()[-300:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{why}: `{' '.join(command)}` took longer than {_TIMEOUT_S} s")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    _TOOLS.mkdir(exist_ok=True)
    with (_TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
