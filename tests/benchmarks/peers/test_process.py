"""A worker answers commands, is still in between, and its end or silence becomes an error that says so."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers import process
from benchmarks.peers.cells import Cell, Load
from benchmarks.peers.process import Worker, WorkerError

SCRIPTED = "tests.benchmarks.peers.scripted_engine"


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    monkeypatch.setattr(process, "HOME", tmp_path)
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.close()


def loaded(workers: list[Worker], behaviour: str) -> Worker:
    worker = Worker(Path(sys.executable), SCRIPTED, num_threads=1)
    workers.append(worker)
    load = Load(max_sequences=2, max_tokens=8, total_tokens=16).to_json()
    command = {"op": "load", "model": "gpt2", "path": behaviour, "precision": "float32", "num_threads": 1, "load": load, "num_vocab": 5000}
    assert worker.call(command, timeout_s=60)["load_s"] >= 0
    return worker


def decode(num_sequences: int) -> dict[str, object]:
    cell = Cell(kind="decode", num_sequences=num_sequences, prompt_tokens=4, new_tokens=4)
    return {"op": "run", "cell": cell.to_json(), "seed": 1}


def test_a_worker_answers_although_its_engine_prints_and_is_stopped_between_calls(workers: list[Worker]) -> None:
    worker = loaded(workers, "works")
    reply = worker.call(decode(2), timeout_s=60)
    assert reply["figures"]["value"] > 0
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert "State:\tT (stopped)" in status


def test_what_an_engine_cannot_do_is_said_and_the_worker_goes_on(workers: list[Worker]) -> None:
    worker = loaded(workers, "refuses")
    with pytest.raises(WorkerError, match="no two prompts") as refusal:
        worker.call(decode(2), timeout_s=60)
    assert refusal.value.is_unsupported and not refusal.value.is_fatal
    assert worker.call(decode(1), timeout_s=60)["figures"]["value"] > 0


def test_a_worker_that_dies_is_an_error_with_its_signal(workers: list[Worker]) -> None:
    worker = loaded(workers, "dies")
    with pytest.raises(WorkerError, match="SIGABRT") as death:
        worker.call(decode(2), timeout_s=60)
    assert death.value.is_fatal


def test_a_worker_that_does_not_answer_in_time_is_ended(workers: list[Worker]) -> None:
    worker = loaded(workers, "hangs")
    with pytest.raises(WorkerError, match="no answer within") as silence:
        worker.call(decode(2), timeout_s=0.2)
    assert silence.value.is_fatal
    assert not Path(f"/proc/{worker.pid}").exists()
