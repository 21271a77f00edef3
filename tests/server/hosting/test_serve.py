import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting import serve
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


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 64])
@pytest.mark.parametrize("num_engines", [1, 2, 3, 7, 50])
def test_every_engine_and_the_gateway_find_a_place_on_one_machine(num_cpus: int, num_engines: int) -> None:
    nodes: list[dict[str, float]] = [{"CPU": num_cpus}]
    for_gateway = serve.gateway_cpus(nodes)
    share = serve.engine_resources(nodes, num_engines=num_engines, device="auto")["num_cpus"]
    assert share * num_engines + for_gateway <= num_cpus
    assert share + 0.01 >= (num_cpus - for_gateway) / num_engines


def test_an_engine_never_reserves_more_than_the_smallest_node_has_beside_a_gateway() -> None:
    nodes: list[dict[str, float]] = [{"CPU": 4.0}, {"CPU": 16.0}]
    assert serve.gateway_cpus(nodes) == 1.0
    assert serve.engine_resources(nodes, num_engines=1, device="cpu") == {"num_cpus": 3.0}


def test_with_no_node_known_yet_an_engine_reserves_one_cpu() -> None:
    assert serve.engine_resources([], num_engines=3, device="auto") == {"num_cpus": 1.0}
    assert 0 < serve.gateway_cpus([]) < 1


@pytest.mark.parametrize(
    ("gpus", "num_engines", "device", "num_gpus"),
    [(0, 1, "auto", None), (0, 1, "cuda", 1.0), (1, 1, "auto", 1.0), (1, 3, "cuda", 0.33), (8, 2, "auto", 1.0), (8, 2, "cpu", None)],
)
def test_engines_share_the_gpus_that_there_are_unless_told_to_use_the_cpu(
    gpus: int, num_engines: int, device: str, num_gpus: float | None
) -> None:
    nodes: list[dict[str, float]] = [{"CPU": 8, "GPU": gpus}]
    assert serve.engine_resources(nodes, num_engines=num_engines, device=device).get("num_gpus") == num_gpus


def test_ranks_are_placed_together_each_with_a_gpu_of_its_own() -> None:
    resources = serve.engine_resources([{"CPU": 8, "GPU": 4}], num_engines=1, device="cuda", num_ranks=4)
    assert resources == {"num_cpus": 7.0, "num_gpus": 4.0}
    assert serve.placement(resources, 1) == {"ray_actor_options": resources}
    assert serve.placement(resources, 4) == {
        "ray_actor_options": resources,
        "placement_group_bundles": [{"CPU": 7.0, "GPU": 4.0}],
        "placement_group_strategy": "STRICT_PACK",
    }


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

    blueprint = serve.Blueprint(
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
