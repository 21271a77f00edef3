"""What a user may call a model, and what is said when there is none."""

from pathlib import Path
from typing import Any

import pytest

from attendant_server.hosting import model_paths
from attendant_server.hosting.model_paths import ModelPathError, bundled_models, resolve_model, resolve_models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "a=b" / "my-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that cannot be reached; returns what it was asked for."""
    asked: list[str] = []

    def snapshot_download(model: str, **options: Any) -> str:
        asked.append(model)
        raise OSError("no network here.\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_directory_is_called_by_its_last_part_or_as_told(model: Path) -> None:
    assert (resolve_model(str(model)).name, resolve_model(str(model)).path) == ("my-model", model)
    assert resolve_model(f"other={model}").name == "other"


def test_a_relative_directory_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert resolve_model("my-model").path == model
    assert resolve_model("x=./my-model").path == model


def test_bundled_models_are_found_by_name() -> None:
    bundled = bundled_models()
    assert all((path / "config.json").is_file() for path in bundled.values())
    assert resolve_model("stories260k").path == bundled["stories260k"]


@pytest.mark.parametrize(
    ("bundled", "served"),
    [
        (("stories260k", "tiny-classifier", "tiny-encoder"), ["stories260k", "tiny-encoder", "tiny-classifier"]),
        (("attendant-minilm", "stories260k", "tiny-encoder"), ["stories260k", "attendant-minilm"]),
        (("attendant-gpt", "attendant-minilm", "stories260k", "tiny-encoder"), ["attendant-gpt", "attendant-minilm"]),
    ],
)
def test_without_a_name_the_useful_models_are_served_and_small_ones_where_these_are_missing(
    bundled: tuple[str, ...], served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_paths, "bundled_models", lambda: {name: tmp_path / name for name in bundled})
    assert [item.name for item in resolve_models([])] == served


def test_two_models_of_one_name_are_refused(model: Path) -> None:
    with pytest.raises(ModelPathError, match="NAME=MODEL"):
        resolve_models([str(model), str(model)])
    assert [item.name for item in resolve_models([str(model), f"second={model}"])] == ["my-model", "second"]


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path, no_hub: list[str]) -> None:
    for spec in (str(tmp_path / "missing"), "./missing", "~missing/x", "a/b/c", "name="):
        with pytest.raises(ModelPathError):
            resolve_model(spec)
    assert no_hub == []


def test_a_directory_without_config_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelPathError, match=r"config\.json"):
        resolve_model(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelPathError, match="is a file"):
        resolve_model(str(file))


def test_a_misspelt_bundled_name_gets_a_suggestion(no_hub: list[str]) -> None:
    with pytest.raises(ModelPathError, match="did you mean 'stories260k'"):
        resolve_model("stories260")
    assert no_hub == []


def test_a_hub_id_without_a_network_is_one_sentence_with_the_reason(no_hub: list[str]) -> None:
    with pytest.raises(ModelPathError) as caught:
        resolve_model("org/some-model")
    assert "no network here" in str(caught.value) and "more" not in str(caught.value)
    assert "stories260k" in str(caught.value)


def test_a_hub_id_that_was_fetched_before_needs_no_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = resolve_model("org/some-model")
    assert (found.name, found.path) == ("some-model", model)


def test_an_installation_without_models_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_paths, "bundled_models", dict)
    with pytest.raises(ModelPathError, match="name a model"):
        resolve_models([])
