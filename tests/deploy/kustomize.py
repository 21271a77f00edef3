"""Render our kustomizations without the kustomize program: the small part of it that they use, and nothing silently skipped.

``test_manifests.py`` compares the result with ``kubectl kustomize`` where kubectl is installed.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
_KEYS = {"apiVersion", "kind", "namespace", "resources", "patches"}
_CLUSTER_SCOPED = {"Namespace"}


def render(folder: Path) -> list[Manifest]:
    """Return the manifests of a kustomization. Raises ``ValueError`` for a feature that is not read here."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := kustomization.keys() - _KEYS:
        raise ValueError(f"{folder.name} uses {sorted(unknown)}, which this renderer does not know")
    manifests: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        manifests += render(path) if path.is_dir() else _load(path)
    for manifest in manifests:
        if "namespace" in kustomization and manifest["kind"] not in _CLUSTER_SCOPED:
            manifest["metadata"]["namespace"] = kustomization["namespace"]
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        chosen = [item for item in manifests if item["kind"] == target["kind"] and item["metadata"]["name"] == target["name"]]
        if not chosen:
            raise ValueError(f"{folder.name} patches {target}, which is not there")
        for manifest in chosen:
            for operation in yaml.safe_load((folder / patch["path"]).read_text("utf-8")):
                _apply(manifest, operation)
    return manifests


def _load(path: Path) -> list[Manifest]:
    return list(yaml.load_all(path.read_text("utf-8"), Loader=_UnsharedLoader))


class _UnsharedLoader(yaml.SafeLoader):
    """Copies what an alias stands for, as kustomize does: a patch must change one place only."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        return copy.deepcopy(super().compose_node(parent, index))


def _apply(manifest: Manifest, operation: dict[str, Any]) -> None:
    """Apply one operation of RFC 6902: ``add`` and ``replace``, the two that are used."""
    *parents, last = operation["path"].strip("/").split("/")
    place: Any = manifest
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if operation["op"] == "add" and isinstance(place, list) and last == "-":
        place.append(operation["value"])
    elif isinstance(place, dict) and (operation["op"] == "add" or (operation["op"] == "replace" and last in place)):
        place[last] = operation["value"]
    else:
        raise ValueError(f"cannot {operation['op']} at {operation['path']}")
