import subprocess
import sys
from pathlib import Path

import pytest

from attendant_server.hosting.log_pipe import LogPipe, open_log

_WRITER = """
import sys
from attendant_server.hosting.log_pipe import open_log
log = open_log(sys.argv[1])
for number in range(200):
    log.write(f"{sys.argv[2] * 200} {number}\\n")
"""


def test_lines_of_several_processes_arrive_whole_on_standard_error(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pipe = LogPipe(tmp_path / "log")
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(pipe.path), letter]) for letter in "abé"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    pipe.close()
    lines = capfdbinary.readouterr().err.decode().splitlines()
    assert sorted(lines) == sorted(f"{letter * 200} {number}" for letter in "abé" for number in range(200))


def test_without_a_pipe_a_process_logs_to_its_own_standard_error() -> None:
    assert open_log(None) is sys.stderr
