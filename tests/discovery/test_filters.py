from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import CgroupPaths, Container, Pod
from falcon_agent.discovery.filters import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WEB = Container(
    id="1",
    name="shop-web-1",
    runtime="docker",
    pid=1,
    starttime=1,
    cgroup=CgroupPaths({}, "/"),
    image="registry.example/shop/web:2.1",
    labels={"com.example.app": "shop", "tier": "front, end=1"},
    pod=Pod("web-0", "prod"),
)


@pytest.mark.parametrize(
    ("include", "exclude", "measured"),
    [
        ({}, {}, True),
        ({"name": [], "image": []}, {"name": []}, True),
        ({"name": ["shop-*"]}, {}, True),
        ({"name": ["SHOP-*"]}, {}, False),
        ({"name": ["db", "shop-web-[0-9]"]}, {}, True),
        ({"name": ["shop"]}, {}, False),
        ({"image": ["registry.example/*"]}, {}, True),
        ({"image": ["*/web:1.*"]}, {}, False),
        ({"label": ["com.example.app"]}, {}, True),
        ({"label": ["com.example.app=shop"]}, {}, True),
        ({"label": ["com.example.app=other"]}, {}, False),
        ({"label": ["com.example.*=sh?p"]}, {}, True),
        ({"label": ["tier=front, end=1"]}, {}, True),
        ({"label": ["tier="]}, {}, False),
        ({"namespace": ["prod"]}, {}, True),
        ({"namespace": ["test", "dev"]}, {}, False),
        ({"name": ["shop-*"], "namespace": ["test"]}, {}, False),
        ({"name": ["shop-*"], "namespace": ["prod"]}, {}, True),
        ({}, {"name": ["shop-*"]}, False),
        ({"name": ["shop-*"]}, {"label": ["tier"]}, False),
        ({}, {"namespace": ["kube-system"]}, True),
    ],
)
def test_what_is_measured(
    include: Mapping[str, Sequence[str]], exclude: Mapping[str, Sequence[str]], *, measured: bool
) -> None:
    assert (Filter(include, exclude).reason(WEB) is None) is measured


def test_container_outside_of_kubernetes_is_in_no_namespace() -> None:
    plain = Container("1", "web", "docker", 1, 1, CgroupPaths({}, "/"))
    assert Filter({"namespace": ["*"]}, {}).reason(plain) == "not included: matches no namespace of *"


def test_the_reason_names_the_pattern() -> None:
    assert Filter({}, {"image": ["*/web:*"]}).reason(WEB) == 'excluded by image "*/web:*"'
    assert Filter({"name": ["db", "mq"]}, {}).reason(WEB) == "not included: matches no name of db, mq"


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="command is no kind of filter"):
        Filter({"command": ["x"]}, {})
