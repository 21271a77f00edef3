"""The doctor's findings on machines that lack things, and its exit code."""

import json
import socket
from pathlib import Path

import pytest

from attendant_server.commands import doctor, machine_checks
from tests.server.commands.conftest import Run


def test_a_sound_machine_with_a_running_server_is_exit_code_0(ask: Run) -> None:
    outcome = ask("doctor")
    assert outcome.code == 0
    assert "torch" in outcome.out and "ready at" in outcome.out
    findings = {finding["subject"]: finding for finding in json.loads(ask("doctor", "--json").out)}
    assert findings["server"]["state"] == "ok"
    assert {"python", "torch", "ray", "haproxy", "cpu", "memory", "shared memory", "models"} <= findings.keys()


def test_without_a_server_it_says_how_to_start_one(run: Run, unused_port: int) -> None:
    outcome = run("doctor", "--url", f"127.0.0.1:{unused_port}")
    assert "attendant serve" in outcome.out and outcome.code == 0


def test_a_fault_is_exit_code_1(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = machine_checks.Finding(subject="torch", state="fault", detail="missing", advice="Install it.")
    monkeypatch.setattr(doctor, "check_machine", lambda: [fault])
    outcome = ask("doctor")
    assert outcome.code == 1
    assert "FAIL  torch" in outcome.out and "Install it." in outcome.out


def test_a_port_in_use_is_a_note_unless_our_server_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor.check_port(port, is_server_running=False).state == "note"
        assert doctor.check_port(port, is_server_running=True).state == "ok"
    assert doctor.check_port(70000, is_server_running=False).state == "fault"


def test_an_old_cpu_and_little_memory_are_noted(tmp_path: Path) -> None:
    cpuinfo, meminfo = tmp_path / "cpuinfo", tmp_path / "meminfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu sse2\n", encoding="utf-8")
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 1048576 kB\n", encoding="utf-8")
    assert machine_checks.check_cpu(cpuinfo).state == "note"
    memory = machine_checks.check_memory(meminfo)
    assert (memory.state, memory.detail) == ("note", "1.0 GiB available")
    cpuinfo.write_text("flags : avx2 fma amx_tile\n", encoding="utf-8")
    assert "avx2, fma, amx_tile" in machine_checks.check_cpu(cpuinfo).detail


def test_a_machine_that_tells_nothing_is_no_fault(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for finding in (
        machine_checks.check_cpu(missing),
        machine_checks.check_memory(missing),
        machine_checks.check_shared_memory(missing),
    ):
        assert finding.state == "note"
