"""The examples run as they are."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import RunningServer

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("stream_completion", ["Once"], "piece0piece1\n\n2 tokens in 1.75 s by tiny"),
        ("many_at_once", [], "32 answers in"),
        ("classify_by_examples", [], "1 of 3 prompt tokens came from the cache"),
    ],
)
def test_an_example_runs(
    running: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments, running.url])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        assert end.code == 0
    assert said in capsys.readouterr().out


def test_every_example_is_tested_and_described() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"stream_completion", "many_at_once", "classify_by_examples"}
    assert all(f"`{name}.py`" in (EXAMPLES / "README.md").read_text(encoding="utf-8") for name in names)
