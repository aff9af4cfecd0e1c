"""Templates for endpoints and tags, and the ids that people see."""

from __future__ import annotations

import pytest

from falcon_agent.container import CgroupPaths, Container, Pod, Template

ID = "0123456789abcdef" * 4
WEB = Container(
    ID,
    "web",
    "docker",
    1,
    2,
    CgroupPaths({}, "/"),
    image="nginx:1.27",
    labels={"com.example.app": "shop", "odd": "{hostname}"},
    env={"ROLE": "front"},
    pod=Pod("web-0", "prod"),
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("{hostname}", "h1"),
        ("{container}", "web"),
        ("{id}", "0123456789ab"),
        ("{image}", "nginx:1.27"),
        ("{pod}.{namespace}", "web-0.prod"),
        ("{label:com.example.app}-{env:ROLE}", "shop-front"),
        ("{label:none}{env:none}", ""),
        ("plain", "plain"),
        # What a container says is never expanded a second time.
        ("{label:odd}", "{hostname}"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert Template(text).expand("h1", WEB) == expanded


def test_without_a_container_only_the_host_is_known() -> None:
    assert Template("{hostname}/{container}").expand("h1") == "h1/"
    assert not Template("{hostname}-x").about_container
    assert Template("{label:a}").about_container


@pytest.mark.parametrize(
    "text", ["{host}", "{label}", "{label:}", "{", "}", "{{hostname}}", "{hostname", "{}"]
)
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ValueError, match=r"placeholder|brace"):
        Template(text)


def test_only_a_long_hexadecimal_id_is_shortened() -> None:
    assert WEB.short_id == "0123456789ab"
    assert (
        Container("my-lxc-container", "x", "lxc", 1, 2, CgroupPaths({}, "/")).short_id == "my-lxc-container"
    )
