"""One engine's failure is noted in its cells, and the others are measured all the same."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers import process, report, rounds
from benchmarks.peers.cells import Cell, Precision
from benchmarks.peers.registry import OURS, EngineKind
from benchmarks.peers.results import Group
from benchmarks.peers.rounds import GroupRun, Plan
from benchmarks.peers.shapes import ModelName

SCRIPTED = "tests.benchmarks.peers.scripted_engine"
CELLS = [Cell(kind="decode", num_sequences=n, prompt_tokens=4, new_tokens=4) for n in (1, 2)]


def scripted(name: str, *, cannot: str | None = None) -> EngineKind:
    reasons: dict[Precision, str] = {} if cannot is None else {"float32": cannot}
    return EngineKind(name=name, title=name, decoder=SCRIPTED, encoder=None, python=Path(sys.executable), cannot=reasons)


def by_name(kind: EngineKind, model: ModelName, precision: Precision) -> Path:
    return Path(kind.name)


def run(kinds: list[EngineKind], *, deadline_s: float) -> Group:
    plan = Plan(repeats=2, extra_rounds=0, num_threads=1, deadline_s=deadline_s, roofline=SCRIPTED)
    return GroupRun("gpt2", "float32", kinds, CELLS, plan).run(None)


@pytest.fixture(autouse=True)
def no_files_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HOME", tmp_path)
    monkeypatch.setattr(rounds, "model_path", by_name)


def test_engines_that_fail_are_named_with_the_reason_and_the_rest_goes_on() -> None:
    kinds = [scripted(OURS), scripted("dies"), scripted("refuses"), scripted("unloadable"), scripted("absent", cannot="no such thing here")]
    group = run(kinds, deadline_s=time.monotonic() + 100)
    ours, dies, refuses, unloadable, absent = group.engines
    assert [len(cell.repetitions) for cell in ours.cells] == [2, 2]
    assert refuses.cells[0].repetitions and refuses.cells[1].problem == "no two prompts"
    assert dies.problem is not None and "SIGABRT" in dies.problem
    assert unloadable.problem is not None and "another model" in unloadable.problem
    assert absent.problem == "no such thing here"
    text = "\n".join(report.sections(group))
    for reason in ("no two prompts", "SIGABRT", "another model", "no such thing here"):
        assert reason in text


def test_after_the_time_limit_every_cell_says_that_it_was_not_reached() -> None:
    group = run([scripted(OURS), scripted("works")], deadline_s=time.monotonic())
    assert {cell.problem for engine in group.engines for cell in engine.cells} == {"not reached within the time limit"}
