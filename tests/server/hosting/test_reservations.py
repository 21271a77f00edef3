"""What replicas reserve: every one finds a place, and ranks lie together."""

import pytest

from attendant_server.hosting.reservations import engine_resources, gateway_cpus, placement


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 64])
@pytest.mark.parametrize("num_engines", [1, 2, 3, 7, 50])
def test_every_engine_and_the_gateway_find_a_place_on_one_machine(num_cpus: int, num_engines: int) -> None:
    nodes: list[dict[str, float]] = [{"CPU": num_cpus}]
    for_gateway = gateway_cpus(nodes)
    share = engine_resources(nodes, num_engines=num_engines, device="auto")["num_cpus"]
    assert share * num_engines + for_gateway <= num_cpus
    assert share + 0.01 >= (num_cpus - for_gateway) / num_engines


def test_an_engine_never_reserves_more_than_the_smallest_node_has_beside_a_gateway() -> None:
    nodes: list[dict[str, float]] = [{"CPU": 4.0}, {"CPU": 16.0}]
    assert gateway_cpus(nodes) == 1.0
    assert engine_resources(nodes, num_engines=1, device="cpu") == {"num_cpus": 3.0}


def test_with_no_node_known_yet_an_engine_reserves_one_cpu() -> None:
    assert engine_resources([], num_engines=3, device="auto") == {"num_cpus": 1.0}
    assert 0 < gateway_cpus([]) < 1


@pytest.mark.parametrize(
    ("gpus", "num_engines", "device", "num_gpus"),
    [(0, 1, "auto", None), (0, 1, "cuda", 1.0), (1, 1, "auto", 1.0), (1, 3, "cuda", 0.33), (8, 2, "auto", 1.0), (8, 2, "cpu", None)],
)
def test_engines_share_the_gpus_that_there_are_unless_told_to_use_the_cpu(
    gpus: int, num_engines: int, device: str, num_gpus: float | None
) -> None:
    nodes: list[dict[str, float]] = [{"CPU": 8, "GPU": gpus}]
    assert engine_resources(nodes, num_engines=num_engines, device=device).get("num_gpus") == num_gpus


def test_ranks_are_placed_together_each_with_a_gpu_of_its_own() -> None:
    resources = engine_resources([{"CPU": 8, "GPU": 4}], num_engines=1, device="cuda", num_ranks=4)
    assert resources == {"num_cpus": 7.0, "num_gpus": 4.0}
    assert placement(resources, 1) == {"ray_actor_options": resources}
    assert placement(resources, 4) == {
        "ray_actor_options": resources,
        "placement_group_bundles": [{"CPU": 7.0, "GPU": 4.0}],
        "placement_group_strategy": "STRICT_PACK",
    }
