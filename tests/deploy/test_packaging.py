"""What the wheel and the source distribution are made of, with a compiler and without one."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_KERNELS = "attendant_engine/kernels/cpu"
_LIBRARY = f"{_KERNELS}/libattendant_cpu.so"
# hatchling as a program, in an interpreter that has no ziglang even where `make` had to install it.
_HATCHLING = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "ziglang" else find_spec(name, package)
from hatchling.cli import hatchling
sys.exit(hatchling())
"""


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = _build("sdist", _ROOT, folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _build(target: str, project: Path, folder: Path, *, path: str | None = None) -> Path:
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | ({} if path is None else {"PATH": path})
    command = [sys.executable, "-c", _HATCHLING, "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, timeout=110)
    [built] = (file for file in folder.iterdir() if file.suffix in (".whl", ".gz"))
    return built


def test_the_source_distribution_has_the_kernels_sources_and_nothing_compiled(source_distribution: Path) -> None:
    folder = source_distribution / "engine" / _KERNELS
    ours = {path.name for path in (_ROOT / "engine" / _KERNELS / "src").iterdir()}
    assert {path.name for path in (folder / "src").iterdir()} == ours
    assert (source_distribution / "tools" / "wheel_hook.py").exists()
    assert not (folder / "build").exists()
    assert not list(source_distribution.rglob("*.so"))


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the kernels are for Linux on x86-64")
def test_a_wheel_has_the_compiled_kernels_and_says_for_which_platform(tmp_path: Path) -> None:
    wheel = _build("wheel", _ROOT, tmp_path, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(_LIBRARY)[:4] == b"\x7fELF"
        assert not [name for name in archive.namelist() if name.endswith((".o", ".d"))]


def test_without_a_compiler_the_wheel_is_a_pure_one_without_kernels(source_distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dist").mkdir()
    wheel = _build("wheel", source_distribution, tmp_path / "dist", path=str(tmp_path / "empty"))
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert f"{_KERNELS}/build.py" in archive.namelist()
        assert _LIBRARY not in archive.namelist()
