"""Settings from four places: which wins, and what is said about each kind of mistake."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from attendant_server.commands import serve
from attendant_server.commands.settings_sources import SettingsError, collect_settings
from attendant_server.config import Settings
from attendant_server.hosting.model_paths import ModelPathError


def _collect(tmp_path: Path, *, flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, yaml: str = "") -> Settings:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml, encoding="utf-8")
    return collect_settings(flags or {}, environment=environment or {}, file=file)


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_flag_wins_over_the_environment_the_environment_over_the_file_the_file_over_the_default(tmp_path: Path) -> None:
    yaml = "http_port: 1\ngrpc_port: 1\nreplicas: 3\nkv_cache_memory: 2GiB\n"
    environment = {"ATTENDANT_HTTP_PORT": "2", "ATTENDANT_GRPC_PORT": "2", "ATTENDANT_LOCAL": "true", "PATH": "x"}
    settings = _collect(tmp_path, flags={"http_port": 3, "dtype": None}, environment=environment, yaml=yaml)
    assert (settings.http_port, settings.grpc_port, settings.replicas) == (3, 2, 3)
    assert (settings.local, settings.kv_cache_memory, settings.dtype) == (True, 2 * 2**30, "auto")


def test_every_setting_but_the_models_and_what_tenants_are_granted_has_its_flag() -> None:
    parameters = set(inspect.signature(serve.serve).parameters)
    assert parameters - {"models", "config"} == set(Settings.model_fields) - {"models", "tenants"}


def test_the_file_says_what_each_tenant_is_granted(tmp_path: Path) -> None:
    settings = _collect(tmp_path, yaml="tenants: {acme: {weight: 2, tokens_per_minute: 60000}, other: {}}")
    assert (settings.tenants["acme"].weight, settings.tenants["acme"].tokens_per_minute) == (2.0, 60000)
    assert (settings.tenants["other"].weight, settings.tenants["other"].tokens_per_minute) == (1.0, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"yaml": "http_prot: 1"}, "did you mean 'http_port'"),
        ({"yaml": "5: 1"}, "not a setting"),
        ({"yaml": "http_port: 70000"}, "http_port in "),
        ({"yaml": "http_port: [1"}, "not valid YAML"),
        ({"yaml": "tenants: {acme: {wieght: 2}}"}, "did you mean 'weight'"),
        ({"yaml": "tenants: {acme: {weight: 0}}"}, "above 0"),
        ({"yaml": "- a"}, "keys and values"),
        ({"yaml": "kv_cache_memory: lots"}, "not a size"),
        ({"environment": {"ATTENDANT_HTP_PORT": "1"}}, "did you mean 'ATTENDANT_HTTP_PORT'"),
        ({"environment": {"ATTENDANT_HTTP_PORT": "web"}}, "ATTENDANT_HTTP_PORT"),
        ({"flags": {"http_port": 70000}}, "--http-port is 70000; it must be at most 65535"),
        ({"flags": {"request_timeout_s": -1.0}}, "--request-timeout-s"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _collect(tmp_path, **given)
    message = str(caught.value)
    assert said in message
    assert message.endswith((".", "?")) and "\n" not in message


def test_what_kubernetes_adds_to_the_environment_is_no_mistake(tmp_path: Path) -> None:
    environment = {
        "ATTENDANT_SERVICE_HOST": "10.0.0.1",
        "ATTENDANT_SERVICE_PORT": "8000",
        "ATTENDANT_SERVICE_PORT_GRPC": "9000",
        "ATTENDANT_PORT": "tcp://10.0.0.1:8000",
        "ATTENDANT_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "ATTENDANT_PORT_8000_TCP_ADDR": "10.0.0.1",
        "ATTENDANT_API_KEY": "a client's",
    }
    assert _collect(tmp_path, environment=environment) == Settings()


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        collect_settings({}, environment={}, file=tmp_path / "missing.yaml")


def test_models_come_from_arguments_the_environment_or_the_file(tmp_path: Path) -> None:
    first, second = _model(tmp_path / "first"), _model(tmp_path / "second")
    file = tmp_path / "settings.yaml"
    file.write_text(f"models:\n  - {first}\n  - name: other\n    path: {second}\n", encoding="utf-8")
    settings = collect_settings({}, environment={}, file=file, models=[])
    assert [(model.name, model.path) for model in settings.models] == [("first", str(first)), ("other", str(second))]
    settings = collect_settings({}, environment={"ATTENDANT_MODELS": f"a={first}, b={second}"}, file=file, models=[])
    assert [model.name for model in settings.models] == ["a", "b"]
    settings = collect_settings({}, environment={}, file=file, models=[f"c={second}"])
    assert [model.name for model in settings.models] == ["c"]
    file.write_text("models: [{name: 1}]", encoding="utf-8")
    with pytest.raises(SettingsError, match="NAME=MODEL"):
        collect_settings({}, environment={}, file=file, models=[])


def test_other_mistakes_are_found_before_a_model_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        collect_settings({"http_port": -1}, environment={}, file=None, models=[str(tmp_path / "missing")])
    with pytest.raises(ModelPathError):
        collect_settings({}, environment={}, file=None, models=[str(tmp_path / "missing")])


def test_adapters_come_from_the_flag_the_variable_and_the_file_alike(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"flags": {"adapter": ["mood=/a", "size=/b"]}},
        {"environment": {"ATTENDANT_ADAPTER": "mood=/a, size=/b"}},
        {"yaml": "adapter: [mood=/a, {name: size, path: /b}]"},
    ]
    for sources in given:
        assert [(each.name, each.path) for each in _collect(tmp_path, **sources).adapter] == [("mood", "/a"), ("size", "/b")]
    with pytest.raises(SettingsError, match="--adapter has 'mood'; write NAME=DIR"):
        _collect(tmp_path, flags={"adapter": ["mood"]})


def test_faults_on_purpose_need_a_word_that_this_is_a_test(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="for tests alone"):
        _collect(tmp_path, flags={"faults": "load:raise"})
    assert _collect(tmp_path, flags={"faults": "load:raise", "tests_only": True}).faults == "load:raise"


def test_bounds_of_replicas_go_together_and_not_with_one_process(tmp_path: Path) -> None:
    settings = _collect(tmp_path, flags={"min_replicas": 0, "max_replicas": 3})
    assert (settings.min_replicas, settings.max_replicas, settings.most_replicas) == (0, 3, 3)
    for flags, message in (
        ({"min_replicas": 1}, "give both"),
        ({"max_replicas": 2}, "give both"),
        ({"min_replicas": 3, "max_replicas": 2}, "--max-replicas: 2 is less than"),
        ({"min_replicas": 1, "max_replicas": 2, "local": True}, "--local: one process cannot scale"),
    ):
        with pytest.raises(SettingsError, match=message):
            _collect(tmp_path, flags=flags)
