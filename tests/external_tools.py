"""Programs that are not Python packages: where they are, or how a test gets them, or why it is skipped without them.

Installed below ``.tools``, which git ignores; a lock keeps two test workers from installing at the same moment.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_TOOLS = _ROOT / ".tools"
_TIMEOUT_S = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Where a program is, and the folders of shared libraries it needs beside the machine's."""

    path: Path
    library_dirs: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with those folders."""
        own = [str(folder) for folder in self.library_dirs]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join([*own, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])}


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


def find_chromium() -> Program:
    """Return the machine's Chromium or Chrome, or Debian's, unpacked with the libraries that are missing here; else skip the test."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if installed := shutil.which(name):
            return Program(path=Path(installed))
    root = _TOOLS / "chromium" / "root"
    with _locked("chromium"):
        if not root.exists():
            _unpack_debian_chromium(root)
    libraries = sorted({library.parent for library in (root / "usr" / "lib").glob("*-linux-gnu*/**/*.so*")})
    return Program(path=root / "usr" / "lib" / "chromium" / "chromium", library_dirs=tuple(libraries))


def _unpack_debian_chromium(root: Path) -> None:
    _check_debian("chromium")
    why = "Debian's chromium package could not be fetched"
    packages = root.with_name("packages")
    (packages / "partial").mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        _run(["apt-get", "update", "--quiet"], cwd=packages, why=why)
    options = ["--option", f"Dir::Cache::archives={packages}", "--option", "Debug::NoLocking=1"]
    _run(["apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *options, "chromium"], cwd=packages, why=why)
    unpacking = root.with_name("unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)
    for package in packages.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(unpacking)], cwd=packages, why="Debian's chromium could not be unpacked")
    shutil.rmtree(packages)
    unpacking.rename(root)


def _check_debian(name: str) -> None:
    # What follows is unpacked, not installed: nothing is started, and nothing outside the checkout changes.
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"{name} is not installed, and this is no Debian system to take its package from")


def _unpack_debian_prometheus() -> None:
    _check_debian("prometheus")
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
