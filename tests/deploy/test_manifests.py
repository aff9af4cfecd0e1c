"""The Kubernetes manifests and the playbook: that they are what the API, kustomize and the agent understand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from falcon_agent import __version__
from falcon_agent.config.loading import load
from tests.deploy.manifests import KUBERNETES, build, one

REPOSITORY = Path(__file__).parents[2]
KUSTOMIZATIONS = {"base": KUBERNETES / "base", "example": KUBERNETES / "overlays/example"}


@pytest.fixture(params=list(KUSTOMIZATIONS.values()), ids=list(KUSTOMIZATIONS))
def manifests(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def pod(manifests: Any) -> Any:
    return one(manifests, "DaemonSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
def test_they_fit_the_schemas_of_kubernetes(version: str, manifests: Any) -> None:
    """Strictly: a field that this version of the API does not know is an error."""
    assert {manifest["kind"] for manifest in manifests} == {
        *("Namespace", "ServiceAccount", "PriorityClass", "ConfigMap", "DaemonSet")
    }
    for manifest in manifests:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_they_refer_to_each_other(manifests: Any) -> None:
    spec = pod(manifests)
    (agent,) = spec["containers"]
    daemonset = one(manifests, "DaemonSet")
    assert spec["serviceAccountName"] == one(manifests, "ServiceAccount")["metadata"]["name"]
    assert spec["priorityClassName"] == one(manifests, "PriorityClass")["metadata"]["name"]
    assert daemonset["spec"]["selector"]["matchLabels"] == daemonset["spec"]["template"]["metadata"]["labels"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in agent["volumeMounts"]}
    assert volumes["config"]["configMap"]["name"] == one(manifests, "ConfigMap")["metadata"]["name"]
    namespace = one(manifests, "Namespace")["metadata"]["name"]
    namespaced = [each for each in manifests if each["kind"] not in {"Namespace", "PriorityClass"}]
    assert {each["metadata"]["namespace"] for each in namespaced} == {namespace}


def test_nothing_of_the_host_but_the_spool_can_be_written(manifests: Any) -> None:
    spec = pod(manifests)
    (agent,) = spec["containers"]
    writable = {mount["mountPath"] for mount in agent["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/falcon-agent"}
    assert agent["securityContext"]["readOnlyRootFilesystem"]
    assert agent["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert not agent["securityContext"]["privileged"]


def test_the_agent_understands_its_configuration(manifests: Any, tmp_path: Path) -> None:
    (agent,) = pod(manifests)["containers"]
    data = one(manifests, "ConfigMap")["data"]
    (mount,) = [mount for mount in agent["volumeMounts"] if mount["name"] == "config"]
    assert agent["args"][-1] == mount["mountPath"]
    path = tmp_path / "agent.toml"
    path.write_text(data[mount["subPath"]])
    variables = {each["name"]: each.get("value", "node-7") for each in agent["env"]}
    found = load(str(path), variables)
    assert found.agent.endpoint == "node-7"
    places = {mount["mountPath"]: mount["name"] for mount in agent["volumeMounts"]}
    assert places[found.paths.proc] == "proc"
    assert places[found.paths.cgroup] == "cgroup"
    assert places[found.spool.directory] == "spool"
    sockets = (found.discovery.docker, found.discovery.podman, *found.discovery.cri)
    assert len(sockets) == 5
    assert all(socket.startswith("unix:///host/run/") for socket in sockets)
    assert "/host/run" in places


def test_a_changed_configuration_changes_the_pod() -> None:
    base, example = (pod(build(place)) for place in KUSTOMIZATIONS.values())
    names = {
        volume["configMap"]["name"]
        for spec in (base, example)
        for volume in spec["volumes"]
        if "configMap" in volume
    }
    assert len(names) == 2


def test_the_example_changes_what_it_says_and_nothing_else() -> None:
    base, example = (pod(build(place)) for place in KUSTOMIZATIONS.values())
    (agent,), (changed,) = base["containers"], example["containers"]
    assert changed["image"] == f"registry.example.com/monitoring/falcon-agent:{__version__}"
    assert changed["resources"]["requests"] == agent["resources"]["requests"]
    assert {key for key in changed if changed[key] != agent[key]} == {"image", "resources"}
    assert {key for key in example if example[key] != base.get(key)} == {
        *("containers", "imagePullSecrets", "nodeSelector", "volumes")
    }
    assert example["nodeSelector"] == base["nodeSelector"] | {"monitoring": "open-falcon"}


def test_the_image_has_the_version_of_the_agent(manifests: Any) -> None:
    (agent,) = pod(manifests)["containers"]
    assert agent["image"].endswith(f"falcon-agent:{__version__}")


def test_the_playbook_names_what_the_package_has() -> None:
    """Whether Ansible takes it was tried by hand; it is no part of the tests' machine."""
    (play,) = yaml.safe_load((REPOSITORY / "deploy/ansible/falcon-agent.yml").read_text())
    said = yaml.safe_dump(play)
    drop_ins = {path.name for path in (REPOSITORY / "systemd").glob("falcon-agent.service.d/*.conf")}
    assert set(play["vars"]["falcon_agent_drop_ins"]) <= {name.removesuffix(".conf") for name in drop_ins}
    assert drop_ins
    assert "/etc/falcon-agent/agent.toml" in said
    for handler in re.findall(r"notify: (.*)", said):
        assert handler in {each["name"] for each in play["handlers"]}


def test_the_playbook_s_configuration_is_understood(tmp_path: Path) -> None:
    (play,) = yaml.safe_load((REPOSITORY / "deploy/ansible/falcon-agent.yml").read_text())
    path = tmp_path / "agent.toml"
    path.write_text(play["vars"]["falcon_agent_config"])
    assert load(str(path), {}).transfer.addresses
