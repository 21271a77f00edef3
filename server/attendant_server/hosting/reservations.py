"""What the replicas of an application reserve of a Ray cluster's CPUs and GPUs."""

from typing import Any

from attendant_server.hosting.cpus import server_cpus


def gateway_cpus(nodes: list[dict[str, float]]) -> float:
    """Return the CPUs that the gateway is to reserve on ``nodes`` (Ray's resources of each)."""
    return server_cpus(min((node["CPU"] for node in nodes), default=1.0))


def engine_resources(nodes: list[dict[str, float]], *, num_engines: int, device: str, num_ranks: int = 1) -> dict[str, float]:
    """Return the CPUs and GPUs that each engine replica is to reserve on ``nodes`` for all its ranks together.

    An even share in steps of 0.01, never more than a node has beside a gateway; less than one where there is little, so
    that every replica finds a place. One CPU, and for ``cuda`` one GPU, where nothing is known of the nodes yet.
    """
    gpus = [node["GPU"] for node in nodes if node.get("GPU", 0) > 0]
    for_engines = [node["CPU"] - gateway_cpus(nodes) for node in nodes]
    num_cpus = _share(for_engines, num_engines) if for_engines else 1.0
    if device == "cpu" or (device == "auto" and not gpus):
        return {"num_cpus": num_cpus}
    # Ray gives more than one GPU in whole ones only, and one is all that a rank uses.
    if num_ranks > 1:
        return {"num_cpus": num_cpus, "num_gpus": float(num_ranks)}
    return {"num_cpus": num_cpus, "num_gpus": min(1.0, _share(gpus, num_engines)) if gpus else 1.0}


def placement(resources: dict[str, float], num_ranks: int) -> dict[str, Any]:
    """Return what a replica reserves. With several ranks that is a placement group of one bundle, so of one node.

    One bundle and not one a rank: the ranks are the replica's children, and Ray shows a process the GPUs of its own bundle only.
    """
    if num_ranks == 1:
        return {"ray_actor_options": resources}
    bundle = {{"num_cpus": "CPU", "num_gpus": "GPU"}[name]: count for name, count in resources.items()}
    return {"ray_actor_options": resources, "placement_group_bundles": [bundle], "placement_group_strategy": "STRICT_PACK"}


def _share(counts: list[float], num_engines: int) -> float:
    """Return an even share of what all nodes have, at most what the smallest has."""
    return max(0.01, int(100 * min(sum(counts) / max(1, num_engines), *counts)) / 100)
