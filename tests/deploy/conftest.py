"""The image, and a node that can run the DaemonSet."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.cli.programs import receiver
from tests.deploy.image import build_image
from tests.deploy.kubelet import Node
from tests.deploy.manifests import KUBERNETES, build, one
from tests.real.containerd import IMAGE as BUSYBOX
from tests.real.engine import call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.programs import Receiver
    from tests.deploy.manifests import Manifest
    from tests.real.containerd import Containerd
    from tests.real.engine import Engine


@pytest.fixture(scope="session")
def agent_image(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image that the Dockerfile makes, in the tests' Docker engine."""
    return build_image(docker_engine, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def image_in_containerd(
    agent_image: str, docker_engine: Engine, containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The same image in the tests' containerd, by the name that it has there."""
    archive = tmp_path_factory.mktemp("saved") / "agent.tar"
    docker_engine.cli("save", "--output", str(archive), agent_image)
    containerd.ctr("images", "import", str(archive))
    archive.unlink()
    return f"docker.io/{agent_image}:latest"


@dataclass(frozen=True)
class Cluster:
    """A node of a cluster, and the DaemonSet of the base as it would run there.

    Attributes:
        node: runs pods.
        spec: of the DaemonSet's pod, with nothing changed but two variables: a step of one second, and the namespace
            of which it reports, because it shares the machine with others.
        namespace: that namespace of Kubernetes.
        transfer: where the agent pushes to, in the node's network.
        port: the transfer's.
    """

    node: Node
    spec: Manifest
    namespace: str
    transfer: Receiver
    port: int


@pytest.fixture
def cluster(containerd: Containerd, image_in_containerd: str, tmp_path: Path) -> Iterator[Cluster]:
    """See `Cluster`; for one test, with an empty spool."""
    manifests = build(KUBERNETES / "base")
    spec: Any = one(manifests, "DaemonSet")["spec"]["template"]["spec"]
    config = one(manifests, "ConfigMap")
    namespace = f"shop-{secrets.token_hex(4)}"
    (agent,) = spec["containers"]
    agent["env"] += [
        {"name": "FALCON_AGENT__AGENT__STEP", "value": "1"},
        {"name": "FALCON_AGENT__DISCOVERY__INCLUDE__NAMESPACE", "value": namespace},
    ]
    for name in ("spool", "volume", "logs"):
        (tmp_path / name).mkdir()
    run = containerd.directory / "run"
    _share_run(containerd, run)
    try:
        with receiver(by=["nsenter", f"--net={containerd.netns}"]) as transfer:
            for name, content in config["data"].items():
                text = content.replace("http://transfer.example.com:6060/api/push", transfer.url)
                assert text != content
                (tmp_path / name).write_text(text)
            node = Node(
                containerd,
                images={agent["image"]: image_in_containerd, BUSYBOX: BUSYBOX},
                directories={
                    "/run": run,
                    "/var/lib/falcon-agent": tmp_path / "spool",
                    "/volume": tmp_path / "volume",
                },
                files={config["metadata"]["name"]: tmp_path},
                logs=tmp_path / "logs",
            )
            port = urlsplit(transfer.url).port
            assert port
            yield Cluster(node, spec, namespace, transfer, port)
    finally:
        call(containerd.enter_argv("umount", "--recursive", str(run)))
        shutil.rmtree(run)


def _share_run(containerd: Containerd, run: Path) -> None:
    """A directory like a host's /run: with containerd's socket, and shared with whoever mounts it (mount(8))."""
    script = f"mkdir {run}; mount -t tmpfs none {run}; mount --make-shared {run}; mkdir {run}/containerd"
    at = f"{run}/containerd/containerd.sock"
    call(containerd.enter_argv("sh", "-ec", f"{script}; touch {at}; mount --bind {containerd.socket} {at}"))
