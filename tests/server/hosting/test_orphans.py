import subprocess
import sys

_PROGRAM = """
import subprocess, sys, time
from attendant_server.hosting.orphans import adopt_orphans, end_children
adopt_orphans()
# A child that leaves a grandchild behind, which ends {how}.
start = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {grandchild!r}]).pid)"
subprocess.run([sys.executable, "-c", start])
started_s = time.monotonic()
end_children({timeout_s})
print(time.monotonic() - started_s)
"""


def _run(*, how: str, grandchild: str, timeout_s: float) -> tuple[int, float]:
    program = _PROGRAM.format(how=how, grandchild=grandchild, timeout_s=timeout_s)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    pid, seconds = done.stdout.split()
    return int(pid), float(seconds)


def _runs(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], capture_output=True).returncode == 0


def test_a_grandchild_whose_parent_has_ended_is_waited_for() -> None:
    pid, seconds = _run(how="by itself", grandchild="import time; time.sleep(0.3)", timeout_s=30)
    assert not _runs(pid)
    assert seconds < 10


def test_one_that_does_not_end_is_killed_after_the_limit() -> None:
    pid, seconds = _run(how="never", grandchild="import time; time.sleep(600)", timeout_s=0.2)
    assert not _runs(pid)
    assert 0.2 <= seconds < 10
