"""Which adapter goes with which model, and what is said where none can be found."""

import json
from pathlib import Path

import pytest

from attendant_server.config import AdapterSettings, ModelSettings
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.model_paths import ModelPathError


def model(folder: Path, name: str) -> ModelSettings:
    (folder / name).mkdir()
    return ModelSettings(name=name, path=str(folder / name))


def adapter(directory: Path, name: str, base: str = "") -> AdapterSettings:
    directory.mkdir(parents=True)
    fields = {"peft_type": "LORA", "base_model_name_or_path": base}
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    return AdapterSettings(name=name, path=str(directory))


def names(models: tuple[ModelSettings, ...]) -> dict[str, list[str]]:
    return {each.name: [one.name for one in each.adapters] for each in models}


def test_the_only_model_takes_every_adapter_whatever_its_base_is_called(tmp_path: Path) -> None:
    only = model(tmp_path, "m")
    assert names(assign_adapters([only], [adapter(tmp_path / "a", "mood", "somebody/else")])) == {"m": ["mood"]}


def test_of_several_models_an_adapter_goes_to_the_one_that_it_names(tmp_path: Path) -> None:
    models = [model(tmp_path, "first"), ModelSettings(name="alias", path=str(tmp_path / "second"))]
    named = [adapter(tmp_path / "a", "x", "org/second"), adapter(tmp_path / "b", "y", "first/")]
    assert names(assign_adapters(models, named)) == {"first": ["y"], "alias": ["x"]}
    with pytest.raises(ModelPathError, match="'z' names 'third' as its base, and the served models are first, alias"):
        assign_adapters(models, [adapter(tmp_path / "c", "z", "third")])


def test_adapters_in_a_model_s_own_directory_are_served_under_its_name(tmp_path: Path) -> None:
    only = model(tmp_path, "m")
    adapter(tmp_path / "m" / "adapters" / "topic", "-")
    adapter(tmp_path / "m" / "adapters" / "intent", "-")
    served = assign_adapters([only.model_copy(update={"name": "mini"})], [])
    assert names(served) == {"mini": ["mini-intent", "mini-topic"]}
    assert names(assign_adapters(served, [])) == names(served), "assigning again adds nothing"


def test_two_of_one_name_and_a_directory_without_an_adapter_are_refused(tmp_path: Path) -> None:
    only = model(tmp_path, "m")
    with pytest.raises(ModelPathError, match="Two models or adapters would be called 'm'"):
        assign_adapters([only], [adapter(tmp_path / "a", "m")])
    with pytest.raises(ModelPathError, match=r"there is no adapter_config\.json"):
        assign_adapters([only], [AdapterSettings(name="x", path=str(tmp_path))])
