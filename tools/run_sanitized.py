"""Run kernel tests on kernels that were compiled with sanitizers: g++'s address and undefined behaviour, or its thread sanitizer.

    .venv/bin/python tools/run_sanitized.py [--thread] [pytest's arguments; all kernel tests where none is a file's name]

A sanitizer's finding ends the run with its report. Leaks are not looked for, because Python and torch keep what they
like; the interpreter's and torch's own code is not instrumented, but every buffer of theirs that a kernel leaves is.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "engine" / "attendant_engine" / "kernels" / "cpu" / "build.py"
_TESTS = ("tests/engine/kernels",)

Sanitizer = Literal["address", "thread"]
_RUNTIMES: dict[Sanitizer, tuple[str, ...]] = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    # What other libraries do among their own threads was not compiled for this sanitizer, which then sees no order in it.
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:die_after_fork=0",
    # Each object and tensor in memory of its own, with a guard around it.
    "PYTHONMALLOC": "malloc",
    "OMP_NUM_THREADS": "1",
}


def why_not() -> str | None:
    """Say in a sentence why this cannot run here, or return None where it can."""
    if shutil.which("g++") is None:
        return "The sanitizers' libraries come with g++, which is not installed here."
    reason: str | None = _kernel_build().why_not()
    return reason


def command_and_environment(
    sanitizer: Sanitizer, arguments: list[str], *, instruction_set: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Compile the kernels with ``sanitizer``, all or one instruction set's, and return how to start pytest with ``arguments`` on them."""
    os.environ["CXX"] = str(shutil.which("g++"))
    library = _kernel_build().build(sanitizer=sanitizer, instruction_set=instruction_set)
    environment = {
        **os.environ,
        **_OPTIONS,
        "LD_PRELOAD": ":".join(_runtime(name) for name in _RUNTIMES[sanitizer]),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    plugins = ["-p", "tests.other_kernels", "-p", "no:cacheprovider"]
    if not any(argument.startswith("tests/") for argument in arguments):
        arguments = [*arguments, *_TESTS]
    return [sys.executable, "-m", "pytest", *plugins, f"--kernels={library}", *arguments], environment


def _runtime(name: str) -> str:
    return subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()


def _kernel_build() -> ModuleType:
    """Import the kernels' build from its file, since its package imports torch."""
    spec = importlib.util.spec_from_file_location("attendant_cpu_kernels_build", _BUILD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Run pytest; its status, or a sanitizer's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thread", action="store_true", help="the thread sanitizer instead")
    options, arguments = parser.parse_known_args()
    reason = why_not()
    if reason is not None:
        sys.stderr.write(f"NOT RUN: {reason}\n")
        return 0
    command, environment = command_and_environment("thread" if options.thread else "address", arguments)
    return subprocess.run(command, cwd=_ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
