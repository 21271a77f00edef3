"""``attendant self-check``: writes a record, finds a model to be right, and one that is computed otherwise to be wrong."""

import json
import shutil
from pathlib import Path

import pytest

from attendant_engine.self_check.record import FILE_NAME
from tests.server.commands.conftest import Run

STORIES = Path(__file__).parents[3] / "models" / "stories260k"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORIES, tmp_path / "mine"))


def test_the_record_that_is_written_is_the_one_that_is_checked(run: Run, model: Path) -> None:
    kept = (model / FILE_NAME).read_text()
    (model / FILE_NAME).unlink()
    without = run("self-check", str(model))
    assert without.code == 0 and "finite" in without.out
    written = run("self-check", str(model), "--write", "--dtype", "bfloat16")
    assert written.code == 0 and "0.3 is tolerated" in written.out
    assert json.loads((model / FILE_NAME).read_text())["token_ids"] == json.loads(kept)["token_ids"]


def test_a_model_that_is_computed_otherwise_is_one_sentence_and_exit_code_1(run: Run, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    outcome = run("self-check", str(model))
    assert (outcome.code, outcome.out) == (1, "")
    assert "self-check failed" in outcome.err and len(outcome.err.splitlines()) == 1


def test_what_is_no_model_is_a_wrong_call(run: Run, tmp_path: Path) -> None:
    assert run("self-check", str(tmp_path)).code == 2
