"""Compiles the CPU kernels into one shared object beside this file: run by ``make`` in a checkout and by the wheel's build.

    python engine/attendant_engine/kernels/cpu/build.py [--sanitize]

Sources named ``*.isa.cpp`` are compiled once an instruction set. Objects are kept and only what changed is compiled anew.
Imports nothing of ours and nothing beyond the standard library, because a build has neither yet.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
LIBRARY = HERE / "libattendant_cpu.so"
SANITIZED_LIBRARY = HERE / "libattendant_cpu_sanitized.so"

INSTRUCTION_SETS = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    "avx512_bf16": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx512vnni", "-mavx512bf16"),
}

# No contraction: a * b + c is fused where the source says so and nowhere else, whatever the optimiser feels like.
_COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread")
_OPTIMISED = ("-O3", "-DNDEBUG")
_SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


@dataclass(frozen=True, slots=True)
class _Unit:
    """One compilation: a source, and the flags that it is compiled with."""

    source: Path
    target: Path
    flags: tuple[str, ...]


def find_compiler() -> str | None:
    """Return the C++ compiler: what ``CXX`` names, else g++, c++ or clang++, else None."""
    named = os.environ.get("CXX")
    candidates = (named,) if named else ("g++", "c++", "clang++")
    return next((path for name in candidates if (path := shutil.which(name))), None)


def build(compiler: str, *, sanitize: bool = False, jobs: int | None = None) -> Path:
    """Compile what changed, link, and return the shared object. Raises ``subprocess.CalledProcessError``."""
    folder = HERE / "build" / ("sanitized" if sanitize else "optimised")
    folder.mkdir(parents=True, exist_ok=True)
    flags = (*_COMMON, *(_SANITIZED if sanitize else _OPTIMISED))
    units = _units(folder, flags)
    stale = [unit for unit in units if _is_stale(unit.target)]
    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda unit: _compile(compiler, unit), stale))
    library = SANITIZED_LIBRARY if sanitize else LIBRARY
    if stale or not library.exists():
        # Linked beside and moved into place, so that nobody ever loads half a library.
        partial = library.with_suffix(f".{os.getpid()}.partial")
        _call([compiler, "-shared", *flags, "-o", str(partial), *(str(unit.target) for unit in units)])
        partial.replace(library)
    return library


def _units(folder: Path, flags: tuple[str, ...]) -> list[_Unit]:
    units = []
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.name.endswith(".isa.cpp"):
            stem = source.name.removesuffix(".isa.cpp")
            for isa, isa_flags in INSTRUCTION_SETS.items():
                units.append(_Unit(source, folder / f"{stem}.{isa}.o", (*flags, *isa_flags, f"-DATTENDANT_ISA={isa}")))
        else:
            units.append(_Unit(source, folder / f"{source.stem}.o", (*flags, "-msse4.2")))
    return units


def _is_stale(target: Path) -> bool:
    """Say whether a target is older than anything that its dependency file names, or than this file."""
    dependencies = target.with_suffix(".d")
    if not target.exists() or not dependencies.exists():
        return True
    names = dependencies.read_text().partition(":")[2].replace("\\\n", " ").split()
    built = target.stat().st_mtime_ns
    return any(not Path(name).exists() or Path(name).stat().st_mtime_ns > built for name in (*names, __file__))


def _compile(compiler: str, unit: _Unit) -> None:
    dependencies = unit.target.with_suffix(".d")
    _call([compiler, *unit.flags, "-MMD", "-MF", str(dependencies), "-c", str(unit.source), "-o", str(unit.target)])


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


def main() -> int:
    """Build, or say what is missing; 1 where the compiler failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", action="store_true", help="with the address and undefined-behaviour sanitizers, for tests")
    parser.add_argument("--jobs", type=int, default=None, help="compilations at a time (default: the cores)")
    arguments = parser.parse_args()
    compiler = find_compiler()
    if compiler is None:
        sys.stderr.write("No C++ compiler was found, so the CPU kernels are not built and torch serves; install g++ and run this again.\n")
        return 0
    try:
        build(compiler, sanitize=arguments.sanitize, jobs=arguments.jobs)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
