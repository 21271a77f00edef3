import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting import serve
from attendant_server.hosting.blueprint import Blueprint
from attendant_server.hosting.engine_names import engine_deployment_name
from attendant_server.hosting.model_paths import ModelPathError

_STORIES = {"name": "stories", "path": "stories260k"}


@pytest.mark.parametrize(
    ("model", "name"),
    [("stories260k", "engine-stories260k"), ("all-MiniLM-L6-v2", "engine-all-MiniLM-L6-v2")],
)
def test_an_engines_deployment_is_called_after_its_model(model: str, name: str) -> None:
    assert engine_deployment_name(model) == name


def test_models_whose_names_need_cleaning_get_different_deployments_with_plain_names() -> None:
    names = {engine_deployment_name(model) for model in ("org/model", "org-model", "org model", "org#model")}
    assert len(names) == 4
    assert all(re.fullmatch(r"engine-[A-Za-z0-9_.-]+", name) for name in names)


def test_the_links_token_comes_from_the_clusters_own_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "cluster secret")
    first = serve.make_link_token()
    assert first == serve.make_link_token()
    assert "cluster secret" not in first
    (tmp_path / "token").write_text("cluster secret\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert serve.make_link_token() == first
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert serve.make_link_token() != serve.make_link_token()


@pytest.mark.parametrize(
    "args", [{}, {"models": [_STORIES], "replicas": 2, "kv_cache_memory": "1GiB"}, {"models": [_STORIES], "tensor_parallel": 2}]
)
def test_the_builder_takes_the_settings_of_the_command_line(args: dict[str, Any]) -> None:
    assert serve.build_app(args) is not None


def test_the_builder_refuses_unknown_settings_and_models() -> None:
    with pytest.raises(pydantic.ValidationError, match="replica_count"):
        serve.build_app({"replica_count": 2})
    with pytest.raises(ModelPathError, match="stories260k"):
        serve.build_app({"models": [{"name": "a", "path": "stories260"}]})


def test_what_stays_when_the_models_change_keeps_its_version_and_options() -> None:
    def made(*names: str) -> dict[str, tuple[str | None, object, object]]:
        models = tuple(ModelSettings(name=name, path="/models/" + name) for name in names)
        built = build_app(serve.application_of(Settings(models=models), blueprint), name="attendant", route_prefix="/")
        return {item.name: (item.version, item.ray_actor_options, item._deployment_config) for item in built.deployments}

    blueprint = Blueprint(
        release="r", link_token="t", log_path=None, first=frozenset(("a", "b")), engine_options={"num_cpus": 0.5}, gateway_cpus=0.5
    )
    before, after = made("a", "b"), made("b", "c")
    assert set(after) == {"engine-b", "engine-c", "gateway"}
    assert {name: after[name] for name in ("engine-b", "gateway")} == {name: before[name] for name in ("engine-b", "gateway")}
    assert after["engine-c"][1] == {"num_cpus": 0}
    assert len({version for version, *_ in (*before.values(), *after.values())}) == 4


def test_the_builder_refuses_a_model_directory_for_nothing_would_come_of_it() -> None:
    with pytest.raises(ValueError, match="leave model_directory out"):
        serve.build_app({"models": [], "model_directory": "models"})


def test_serves_own_schema_takes_our_grpc_services_and_builder() -> None:
    schema = ServeDeploySchema.model_validate(
        {
            "grpc_options": {"port": 9000, "grpc_servicer_functions": serve.GRPC_SERVICER_FUNCTIONS},
            "applications": [
                {"name": "attendant", "import_path": "attendant_server.hosting.serve:build_app", "args": {"models": [_STORIES]}}
            ],
        }
    )
    assert [application.name for application in schema.applications] == ["attendant"]
