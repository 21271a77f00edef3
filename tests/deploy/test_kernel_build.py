"""The build of the CPU kernels, with a compiler that only takes notes: what it compiles, when, and what it says without one."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

_CPU = Path(__file__).resolve().parents[2] / "engine" / "attendant_engine" / "kernels" / "cpu"
_COMPILER = """
import pathlib, sys
arguments = sys.argv[1:]
target = pathlib.Path(arguments[arguments.index("-o") + 1])
source = arguments[arguments.index("-c") + 1] if "-c" in arguments else ""
if source:
    header = pathlib.Path(source).with_name("simd.h")
    pathlib.Path(arguments[arguments.index("-MF") + 1]).write_text(f"{target}: {source} \\\\\\n {header}\\n")
target.write_text("compiled")
with pathlib.Path(__file__).with_name("notes").open("a") as notes:
    notes.write(f"{target.name}\\n")
"""


class Checkout:
    """A copy of the build and of a few sources, with the noting compiler."""

    def __init__(self, folder: Path) -> None:
        self.sources = folder / "src"
        self.sources.mkdir()
        for name in ("a.isa.cpp", "b.cpp", "simd.h"):
            (self.sources / name).write_text("")
        self._build = Path(shutil.copy(_CPU / "build.py", folder))
        self.library = folder / "libattendant_cpu.so"
        self._compiler = folder / "compiler.py"
        self._compiler.write_text(_COMPILER)
        self._notes = folder / "notes"

    def build(self, *arguments: str, compiler_flag: str = "") -> set[str]:
        """Run the build and return the names of the files that were compiled or linked."""
        self._notes.write_text("")
        environment = {**os.environ, "CXX": f"{sys.executable} {self._compiler} {compiler_flag}"}
        subprocess.run([sys.executable, str(self._build), *arguments], env=environment, check=True, timeout=60)
        return {name.replace(".partial", ".so") for name in self._notes.read_text().split()}

    def build_without_compiler(self) -> str:
        """Run the build where nothing is installed, not even Python's packages, and return what it said."""
        environment = {"PATH": str(self.sources)}
        command = [sys.executable, "-I", "-S", str(self._build)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stderr

    def change(self, name: str) -> None:
        """Write to a source, at a moment that no clock can take for the last build's."""
        later_ns = time.time_ns() + 10_000_000
        os.utime(self.sources / name, ns=(later_ns, later_ns))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh one."""
    return Checkout(tmp_path)


_ALL_OF_A = {"a.avx2.o", "a.avx512.o", "a.avx512_bf16.o"}
_LIBRARY = {"libattendant_cpu.so"}

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the kernels are for Linux on x86-64")


def test_the_first_build_compiles_each_source_and_those_of_kernels_once_an_instruction_set(checkout: Checkout) -> None:
    assert checkout.build() == {*_ALL_OF_A, "b.o", *_LIBRARY}
    assert checkout.library.exists()


def test_a_second_build_compiles_nothing(checkout: Checkout) -> None:
    checkout.build()
    assert checkout.build() == set()


def test_a_changed_source_is_compiled_anew_and_no_other(checkout: Checkout) -> None:
    checkout.build()
    checkout.change("a.isa.cpp")
    assert checkout.build() == {*_ALL_OF_A, *_LIBRARY}


def test_a_changed_header_compiles_what_includes_it(checkout: Checkout) -> None:
    checkout.build()
    checkout.change("simd.h")
    assert checkout.build() == {*_ALL_OF_A, "b.o", *_LIBRARY}


def test_a_lost_library_is_linked_anew(checkout: Checkout) -> None:
    checkout.build()
    checkout.library.unlink()
    assert checkout.build() == _LIBRARY


def test_another_compiler_compiles_everything_anew(checkout: Checkout) -> None:
    checkout.build()
    assert checkout.build(compiler_flag="--other") == {*_ALL_OF_A, "b.o", *_LIBRARY}


def test_a_build_with_a_sanitizer_leaves_the_ordinary_one_alone(checkout: Checkout) -> None:
    checkout.build("--sanitize", "address")
    assert not checkout.library.exists()
    assert checkout.build() == {*_ALL_OF_A, "b.o", *_LIBRARY}


def test_without_a_compiler_the_build_says_what_to_do_and_succeeds(checkout: Checkout) -> None:
    said = checkout.build_without_compiler()
    assert "torch serves instead; install g++ and run this again" in said
    assert len(said.splitlines()) == 1
