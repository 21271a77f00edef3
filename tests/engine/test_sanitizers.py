"""Kernel tests find no error of memory and no undefined behaviour in kernels compiled with g++'s sanitizers.

A part of the tests here, on the kernels of this machine's best instruction set; ``make sanitize`` runs all of them on all
sets, and with the thread sanitizer too.
"""

import subprocess

import pytest

from attendant_engine.kernels.cpu.library import load_library
from tools.run_sanitized import command_and_environment, why_not

# Names of tests, as pytest's -k understands them: what reads and writes at every shape, rather than what is slow.
_PART = "formula or oracle or gathered or beside"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_kernel_tests_pass_with_the_address_and_undefined_behaviour_sanitizers() -> None:
    library = load_library()
    assert library is not None, "there is a compiler, and the kernels are not built"
    best = library.instruction_set.name.lower()
    command, environment = command_and_environment("address", ["-q", "-k", f"{best} and ({_PART})"], instruction_set=best)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-8000:]
    assert " passed" in run.stdout
