"""Compiles the CPU kernels into one shared object beside this file: run by ``make`` in a checkout and by the wheel's build.

    python engine/attendant_engine/kernels/cpu/build.py [--sanitize address|thread [--instruction-set avx2]]

Sources named ``*.isa.cpp`` are compiled once an instruction set. Objects are kept and only what changed is compiled anew.
Imports nothing of ours and nothing beyond the standard library, because a build has neither yet.
"""

import argparse
import fcntl
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Sanitizer = Literal["address", "thread"]

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
LIBRARY = HERE / "libattendant_cpu.so"

INSTRUCTION_SETS = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    "avx512_bf16": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx512vnni", "-mavx512bf16"),
}

# No contraction: a * b + c is fused where the source says so and nowhere else, whatever the optimiser feels like.
_COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread")
_OPTIMISED = ("-O3", "-DNDEBUG")
# Not optimised: the checks of a large kernel take the optimiser minutes, and running them unoptimised takes seconds.
_SANITIZED: dict[Sanitizer, tuple[str, ...]] = {
    "address": ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
    "thread": ("-O0", "-g", "-fsanitize=thread", "-fno-omit-frame-pointer"),
}
# zig is clang with its own C library headers; an explicit target keeps this machine's processor and libraries out of the code.
_ZIG = ("-m", "ziglang", "c++", "-target", "x86_64-linux-gnu.2.28")


@dataclass(frozen=True, slots=True)
class _Unit:
    """One compilation: a source, and the flags that it is compiled with."""

    source: Path
    target: Path
    flags: tuple[str, ...]


def find_compiler() -> tuple[str, ...] | None:
    """Return the command of a C++ compiler: what ``CXX`` says, else g++, c++, clang++ or the package ziglang, else None."""
    if named := os.environ.get("CXX"):
        return tuple(shlex.split(named))
    found = next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)
    if found is not None:
        return (found,)
    return (sys.executable, *_ZIG) if _has_zig() else None


def _has_zig() -> bool:
    """Say whether ziglang is installed and works: an installation that was interrupted leaves some of it."""
    if importlib.util.find_spec("ziglang") is None:
        return False
    return subprocess.run([sys.executable, "-m", "ziglang", "version"], capture_output=True).returncode == 0


def why_not() -> str | None:
    """Say in a sentence why the kernels cannot be built here, or return None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"The CPU kernels are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}: torch serves instead."
    if find_compiler() is None:
        return "No C++ compiler was found, so the CPU kernels are not built and torch serves instead; install g++ and run this again."
    return None


def library_path(sanitizer: Sanitizer | None = None, *, instruction_set: str | None = None) -> Path:
    """Return where ``build`` puts the shared object: the engine's own, or the one with a sanitizer."""
    if sanitizer is None:
        return LIBRARY
    return HERE / "build" / sanitizer / f"{instruction_set or 'all'}.so"


def build(*, sanitizer: Sanitizer | None = None, instruction_set: str | None = None, jobs: int | None = None) -> Path:
    """Compile what changed, link, and return the shared object.

    With ``instruction_set`` the sanitizer sees the kernels of that one alone; the others come as they are, which is
    quicker to build. Raises ``subprocess.CalledProcessError`` where the compiler does; call it only where ``why_not``
    returns None.
    """
    compiler = find_compiler()
    assert compiler is not None, "no compiler"
    library = library_path(sanitizer, instruction_set=instruction_set)
    plain = HERE / "build" / "optimised"
    folder = plain if sanitizer is None else HERE / "build" / sanitizer
    flags = (*_COMMON, *(_OPTIMISED if sanitizer is None else _SANITIZED[sanitizer]))
    units = _units(folder, flags, tuple(INSTRUCTION_SETS) if instruction_set is None else (instruction_set,), with_shared=True)
    if instruction_set is not None:
        others = tuple(name for name in INSTRUCTION_SETS if name != instruction_set)
        units += _units(plain, (*_COMMON, *_OPTIMISED), others, with_shared=False)
    with _locked():
        for each in {plain, folder}:
            _empty_if_of_another_compiler(each, compiler)
        stale = [unit for unit in units if _is_stale(unit.target)]
        with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda unit: _compile(compiler, unit), stale))
        if not library.exists() or library.stat().st_mtime_ns < max(unit.target.stat().st_mtime_ns for unit in units):
            # Linked beside and moved into place, so that nobody ever loads half a library.
            partial = library.with_suffix(".partial")
            _call([*compiler, "-shared", *flags, "-o", str(partial), *(str(unit.target) for unit in units)])
            partial.replace(library)
    return library


def _units(folder: Path, flags: tuple[str, ...], instruction_sets: tuple[str, ...], *, with_shared: bool) -> list[_Unit]:
    units = []
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.name.endswith(".isa.cpp"):
            stem = source.name.removesuffix(".isa.cpp")
            for isa in instruction_sets:
                units.append(_Unit(source, folder / f"{stem}.{isa}.o", (*flags, *INSTRUCTION_SETS[isa], f"-DATTENDANT_ISA={isa}")))
        elif with_shared:
            units.append(_Unit(source, folder / f"{source.stem}.o", (*flags, "-msse4.2")))
    return units


def _empty_if_of_another_compiler(folder: Path, compiler: Sequence[str]) -> None:
    """Objects of two compilers do not mix: their standard libraries differ."""
    folder.mkdir(parents=True, exist_ok=True)
    made_by = folder / "compiler"
    if made_by.exists() and made_by.read_text() == shlex.join(compiler):
        return
    for target in folder.glob("*.o"):
        target.unlink()
    made_by.write_text(shlex.join(compiler))


def _is_stale(target: Path) -> bool:
    """Say whether a target is older than anything that its dependency file names, or than this file."""
    dependencies = target.with_suffix(".d")
    if not target.exists() or not dependencies.exists():
        return True
    names = dependencies.read_text().partition(":")[2].replace("\\\n", " ").split()
    built = target.stat().st_mtime_ns
    return any(not Path(name).exists() or Path(name).stat().st_mtime_ns > built for name in (*names, __file__))


def _compile(compiler: Sequence[str], unit: _Unit) -> None:
    dependencies = unit.target.with_suffix(".d")
    _call([*compiler, *unit.flags, "-MMD", "-MF", str(dependencies), "-c", str(unit.source), "-o", str(unit.target)])


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


@contextmanager
def _locked() -> Iterator[None]:
    """Let one build at a time write: two terminals, or two test workers, may both want one."""
    (HERE / "build").mkdir(exist_ok=True)
    with (HERE / "build" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build, or say why not; 1 where the compiler failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", choices=tuple(_SANITIZED), help="into a folder of its own and with these checks, for tests")
    parser.add_argument("--instruction-set", choices=tuple(INSTRUCTION_SETS), help="sanitize the kernels of this one alone")
    parser.add_argument("--jobs", type=int, default=None, help="compilations at a time (default: the cores)")
    parser.add_argument("--has-compiler", action="store_true", help="build nothing; exit with 0 where there is a compiler, else 1")
    arguments = parser.parse_args()
    if arguments.instruction_set and not arguments.sanitize:
        parser.error("--instruction-set goes with --sanitize")
    if arguments.has_compiler:
        return 0 if find_compiler() else 1
    reason = why_not()
    if reason is not None:
        sys.stderr.write(f"{reason}\n")
        return 0
    try:
        build(sanitizer=arguments.sanitize, instruction_set=arguments.instruction_set, jobs=arguments.jobs)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
