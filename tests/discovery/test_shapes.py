from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.discovery.shapes import Shape, is_runtimes_own, name_unknown, parse_shape

ID = "3f4c0a1b" * 8
OTHER = "5e6d7c8b" * 8
SHORT = ID[:12]
UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
UID_SLICE = UID.replace("-", "_")
STATIC_UID = "5f0e1d2c3b4a59687786a5b4c3d2e1f0"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (f"/docker/{ID}", Shape(ID, SHORT, "docker")),
        (f"/system.slice/docker-{ID}.scope", Shape(ID, SHORT, "docker")),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
            Shape(ID, SHORT, "docker"),
        ),
        (f"/machine.slice/libpod-{ID}.scope", Shape(ID, SHORT, "podman")),
        (f"/libpod_parent/libpod-{ID}", Shape(ID, SHORT, "podman")),
        (f"/system.slice/web.service/libpod-payload-{ID}", Shape(ID, SHORT, "podman")),
        (f"/machine.slice:libpod:{ID}", Shape(ID, SHORT, "podman")),
        (f"/system.slice/nerdctl-{ID}.scope", Shape(ID, SHORT, "containerd")),
        (f"/k8s.io/{ID}", Shape(ID, SHORT, "containerd")),
        (f"/default/{ID}", Shape(ID, SHORT, "containerd")),
        (f"/system.slice:docker:{ID}", Shape(ID, SHORT, "docker")),
        (f"/:cri-containerd:{ID}", Shape(ID, SHORT, "containerd")),
        (
            f"/kubepods-burstable-pod{UID_SLICE}.slice:cri-containerd:{ID}",
            Shape(ID, SHORT, "containerd", UID),
        ),
        (f"/kubepods/burstable/pod{UID}/{OTHER}/docker/{ID}", Shape(ID, SHORT, "docker")),
        (
            f"/kubepods.slice/kubepods-pod{UID_SLICE}.slice/crio-{OTHER}.scope/docker/{ID}",
            Shape(ID, SHORT, "docker"),
        ),
        ("/machine.slice/machine-web\\x2d1.scope/payload", Shape("web-1", "web-1", "nspawn")),
        ("/machine.slice/systemd-nspawn@web.service/payload", Shape("web", "web", "nspawn")),
        ("/lxc.payload.shop_web", Shape("shop_web", "shop_web", "lxc")),
        (f"/{ID}", Shape(ID, SHORT, "cgroups")),
        (f"/own-parent/{ID}", Shape(ID, SHORT, "cgroups")),
        ("/lxc.payload.web", Shape("web", "web", "lxc")),
        ("/lxc.payload.my.web-1", Shape("my.web-1", "my.web-1", "lxc")),
        ("/lxc.payload/web", Shape("web", "web", "lxc")),
        ("/lxc/web", Shape("web", "web", "lxc")),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_SLICE}.slice/cri-containerd-{ID}.scope",
            Shape(ID, SHORT, "containerd", UID),
        ),
        (
            f"/kubepods.slice/kubepods-pod{UID_SLICE}.slice/crio-{ID}.scope",
            Shape(ID, SHORT, "cri-o", UID),
        ),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC_UID}.slice/docker-{ID}.scope",
            Shape(ID, SHORT, "docker", STATIC_UID),
        ),
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_SLICE}.slice/cri-containerd-{ID}.scope",
            Shape(ID, SHORT, "containerd", UID),
        ),
        (f"/kubepods/burstable/pod{UID}/{ID}", Shape(ID, SHORT, "cgroups", UID)),
        (f"/kubepods/pod{STATIC_UID}/{ID}", Shape(ID, SHORT, "cgroups", STATIC_UID)),
        (f"/kubepods/besteffort/pod{UID}/crio-{ID}", Shape(ID, SHORT, "cri-o", UID)),
    ],
)
def test_known_forms(path: str, shape: Shape) -> None:
    assert parse_shape(path) == shape


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/docker",
        "/system.slice/docker.service",
        "/system.slice",
        "/kubepods.slice",
        f"/kubepods/burstable/pod{UID}",
        f"/kubepods.slice/kubepods-pod{UID_SLICE}.slice",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        f"/libpod_parent/libpod-conmon-{ID}",
        "/lxc.monitor.web",
        "/lxc.payload.",
        "/own.slice/payload",
        "/machine.slice/machine-web.scope",
        "/machine.slice/systemd-nspawn@web.service/supervisor",
        f"/system.slice:docker:{ID}:x",
        f"/system.slice:buildkit:{ID}",
        f"/docker/{ID}/init.scope",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID.upper()}",
        f"/docker/{ID}\n",
    ],
)
def test_what_is_no_container(path: str) -> None:
    assert parse_shape(path) is None


def test_pod_outside_of_kubepods_is_none() -> None:
    shape = parse_shape(f"/stranger/pod{UID}/{ID}")
    assert shape is not None
    assert shape.pod_uid is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/own/systemd-nspawn@web.service", "web"),
        ("/machine.slice/machine-web\\x2d1.scope", "web-1"),
        ("/system.slice/job.service", "job"),
        ("/run-r1.scope", "run-r1"),
        ("/default/redis", "redis"),
        ("/payload", "payload"),
    ],
)
def test_names_of_unknown_forms(path: str, name: str) -> None:
    shape = name_unknown(path)
    assert (shape.name, shape.runtime, shape.pod_uid) == (name, "cgroups", None)


@pytest.mark.parametrize(
    ("path", "is_own"),
    [
        ("/lxc.monitor.web", True),
        ("/lxc.monitor/web", True),
        ("/lxc.pivot", True),
        (f"/machine.slice/libpod-conmon-{ID}.scope", True),
        (f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}", True),
        ("/lxc.payload.web", False),
        ("/lxc.monitors", False),
        (f"/libpod_parent/libpod-{ID}", False),
        ("/", False),
    ],
)
def test_what_is_a_runtimes_own(path: str, is_own: bool) -> None:  # noqa: FBT001  a table
    assert is_runtimes_own(path) == is_own


@pytest.mark.parametrize(
    ("shape", "has_name"),
    [
        (Shape(ID, SHORT, "docker"), False),
        (Shape("web", "web", "lxc"), True),
        (Shape("abcdefghijkl.service", "abcdefghijkl", "cgroups"), True),
    ],
)
def test_an_id_is_no_name(shape: Shape, has_name: bool) -> None:  # noqa: FBT001  a table
    assert shape.has_name == has_name


@given(st.text(max_size=120))
def test_no_path_is_too_odd(path: str) -> None:
    for text in (path, f"/{path}", f"/kubepods/{path}/{ID}", f"/lxc/{path}"):
        parse_shape(text)
        is_runtimes_own(text)
        assert name_unknown(text).name
