"""The kernel tests find no error of memory, of undefined behaviour or among threads in kernels compiled with sanitizers.

A part of the tests here; ``make sanitize`` runs them all.
"""

import subprocess

import pytest

from tools.run_sanitized import Sanitizer, command_and_environment, why_not

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.timeout(300)]

# Names of tests, as pytest's -k understands them: what writes and what splits work among threads.
_PARTS: dict[Sanitizer, str] = {"address": "bits or formula", "thread": "threads"}


@pytest.mark.parametrize("sanitizer", _PARTS)
def test_the_kernel_tests_pass_with_sanitizer(sanitizer: Sanitizer) -> None:
    command, environment = command_and_environment(sanitizer, ["-q", "-k", _PARTS[sanitizer]])
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-8000:]
    assert " passed" in run.stdout
