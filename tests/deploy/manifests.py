"""The Kubernetes manifests as the API server would get them: what `kustomize build` makes, as far as ours use it.

kustomize is no part of this project's tools. What it does with anything that is not handled here is an error, so that a
manifest cannot use what no test sees.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"

Manifest = dict[str, Any]

_FIELDS = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "images", "patches"}
_CLUSTER_WIDE = {"Namespace", "PriorityClass"}


def build(directory: Path) -> list[Manifest]:
    """The manifests of a kustomization, names of generated ConfigMaps with their hash."""
    found = _assemble(directory)
    names = {}
    for manifest in found:
        if manifest["kind"] == "ConfigMap":
            name = manifest["metadata"]["name"]
            names[name] = f"{name}-{_hash(manifest['data'])}"
            manifest["metadata"]["name"] = names[name]
    for manifest in found:
        if manifest["kind"] == "DaemonSet":
            for volume in manifest["spec"]["template"]["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = names[volume["configMap"]["name"]]
    return found


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def _assemble(directory: Path) -> list[Manifest]:
    what = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert set(what) <= _FIELDS, set(what) - _FIELDS
    found: list[Manifest] = []
    for name in what["resources"]:
        place = directory / name
        found += _assemble(place) if place.is_dir() else list(yaml.safe_load_all(place.read_text()))
    for generator in what.get("configMapGenerator", []):
        data = {name: (directory / name).read_text() for name in generator.pop("files")}
        if generator.pop("behavior", "create") == "replace":
            found = [each for each in found if each["kind"] != "ConfigMap"]
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": generator.pop("name")},
                "data": data,
            }
        )
        assert not generator, generator
    for patch in what.get("patches", []):
        content = yaml.safe_load((directory / patch["path"]).read_text())
        (target,) = [
            number
            for number, each in enumerate(found)
            if (each["kind"], each["metadata"]["name"]) == (content["kind"], content["metadata"]["name"])
        ]
        found[target] = _merged(found[target], content)
    for manifest in found:
        if manifest["kind"] not in _CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = what["namespace"]
        if manifest["kind"] == "DaemonSet":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                container["image"] = _image(container["image"], what.get("images", []))
    return found


def _image(image: str, changes: list[dict[str, str]]) -> str:
    name = image.partition(":")[0]
    for change in changes:
        if change["name"] == name:
            return f"{change.get('newName', name)}:{change['newTag']}"
    return image


def _merged(base: Any, patch: Any) -> Any:
    """A strategic merge: maps by key, lists of named things by name, other lists as the patch has them."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: _merged(base.get(key), value) for key, value in patch.items()}
    named = isinstance(base, list) and all("name" in each for each in (*base, *patch))
    if not named:
        return copy.deepcopy(patch)
    merged = {each["name"]: each for each in base}
    for each in patch:
        merged[each["name"]] = _merged(merged.get(each["name"]), each)
    return list(merged.values())


def _hash(data: dict[str, str]) -> str:
    """Any hash does: nothing depends on its being the one that kustomize makes."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
