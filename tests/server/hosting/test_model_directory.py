"""A caller names a model in the directory and reaches nothing else."""

from pathlib import Path

import pytest

from attendant_server.errors import ServingError
from attendant_server.hosting.model_directory import ModelDirectory
from attendant_server.hosting.model_paths import ModelPathError


def _model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _model(tmp_path / "outside")
    _model(tmp_path / "root" / "one")
    _model(tmp_path / "root" / "org" / "two.v1")
    _model(tmp_path / "root" / ".hidden")
    (tmp_path / "root" / "empty").mkdir()
    (tmp_path / "root" / "alias").symlink_to(tmp_path / "root" / "one")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "config.json").write_text("{}")
    return tmp_path / "root"


@pytest.mark.parametrize(("name", "found"), [("one", "one"), ("org/two.v1", "org/two.v1"), ("alias", "one")])
def test_models_are_found_by_their_names(root: Path, name: str, found: str) -> None:
    assert ModelDirectory(str(root)).find(name) == (root / found).resolve()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../outside",
        "one/../../outside",
        "/etc",
        "out",
        ".hidden",
        "one/",
        "one//",
        "./one",
        "a\\b",
        "one\x00",
        "~",
        "ön",
        "a b",
    ],
)
def test_everything_else_is_refused_without_a_path_in_the_answer(root: Path, name: str) -> None:
    with pytest.raises(ServingError) as refusal:
        ModelDirectory(str(root)).find(name)
    assert (refusal.value.code, refusal.value.param) == ("invalid_value", "directory")
    assert str(root.parent) not in refusal.value.message


def test_what_is_no_model_is_said_and_a_near_name_suggested(root: Path) -> None:
    with pytest.raises(ServingError, match="no model"):
        ModelDirectory(str(root)).find("empty")
    with pytest.raises(ServingError, match="did you mean 'one'"):
        ModelDirectory(str(root)).find("onne")


def test_the_directory_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelPathError, match="--model-directory"):
        ModelDirectory(str(tmp_path / "nowhere"))
