from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.discovery.engineanswers import (
    Details,
    Event,
    Info,
    Listed,
    count_states,
    count_volumes,
    parse_details,
    parse_event,
    parse_info,
    parse_listing,
)
from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable

FIXTURES = Path(__file__).parents[1] / "fixtures/discovery"
LISTING = (FIXTURES / "containers.json").read_bytes()
DETAILS = (FIXTURES / "container.json").read_bytes()
SHARING = (FIXTURES / "container-sharing.json").read_bytes()
EVENTS = (FIXTURES / "events.jsonl").read_bytes().splitlines()
CHANGES = (FIXTURES / "events-changes.jsonl").read_bytes().splitlines()
PODMAN_LISTING = (FIXTURES / "podman-containers.json").read_bytes()
PODMAN_DETAILS = (FIXTURES / "podman-container.json").read_bytes()
PODMAN_EVENTS = (FIXTURES / "podman-events.jsonl").read_bytes().splitlines()
WEB = "9e1ed6b83a173fc17a3e186bd61c62351226d2b8c5184b15ad0b91badf1bb9fb"
SIDE = "497cbe1522d246f37509ca7c9f6a9523222319f614bfe027611cce5fcf7536d2"
CHANGING = "ee45d4ecd94d22a22ba3eac908fc6dca5409075dcc496fa18385e9b08609a157"
PODMAN_WEB = "dbdf146ad9371a88b129a867e734ee51a949e0f74c00507f1f854fc439103b45"
PODMAN_SIDE = "7070098336a2fbd9335080df8d2faf0d06a65aa0ca618f95bb1a6f7313822511"

INFO = (
    b'{"Containers": 7, "ContainersRunning": 2, "ContainersPaused": 1, "ContainersStopped": 4, "Images": 1,'
    b' "DockerRootDir": "/var/lib/docker", "Name": "host"}'
)

PARSERS: list[Callable[[bytes], Any]] = [
    parse_listing,
    parse_details,
    parse_event,
    parse_info,
    count_states,
    count_volumes,
]


def test_listing() -> None:
    assert parse_listing(LISTING) == [
        Listed(SIDE, "side", f"container:{WEB}"),
        Listed(WEB, "web", "default"),
    ]


def test_listing_of_podman() -> None:
    """Its form has no HostConfig, so the networks stay unknown."""
    assert parse_listing(PODMAN_LISTING) == [
        Listed(PODMAN_SIDE, "side", "", paused=True),
        Listed(PODMAN_WEB, "web", "", paused=False),
    ]


def test_details_of_podman() -> None:
    details = parse_details(PODMAN_DETAILS)
    assert details.pid == json.loads(PODMAN_DETAILS)["State"]["Pid"] > 0
    assert details.network_mode == f"container:{PODMAN_WEB}"
    assert details.image == "localhost/falcon-test/busybox:latest"
    assert details.labels == {}


@pytest.mark.parametrize("state", ["running", "paused", "restarting", "", None, 7, ["paused"]])
def test_paused(state: object) -> None:
    (listed,) = parse_listing(json.dumps([{"Id": "1", "State": state}]).encode())
    assert listed.paused is (state == "paused")


@pytest.mark.parametrize(
    ("fields", "health"),
    [
        # As Docker 20.10 wrote them.
        ({"Status": "Up Less than a second (health: starting)"}, "starting"),
        ({"Status": "Up 8 seconds (healthy)"}, "healthy"),
        ({"Status": "Up 8 seconds (unhealthy)"}, "unhealthy"),
        ({"Status": "Up 8 seconds"}, ""),
        ({"Status": "Up 8 seconds (Paused)"}, ""),
        ({"Status": "Exited (137) 9 seconds ago"}, ""),
        ({"Status": "unhealthy"}, ""),
        ({}, ""),
        # API 1.52
        ({"Status": "Up 8 seconds (healthy)", "Health": {"Status": "unhealthy", "FailingStreak": 3}}, "unhealthy"),
        ({"Status": "Up 8 seconds", "Health": {"Status": "none", "FailingStreak": 0}}, ""),
        ({"Status": "Up 8 seconds", "Health": {}}, ""),
        ({"Status": "Up 8 seconds (healthy)", "Health": None}, "healthy"),
    ],
)  # fmt: skip
def test_health(fields: dict[str, object], health: str) -> None:
    (listed,) = parse_listing(json.dumps([{"Id": "1", **fields}]).encode())
    assert listed.health == health


@pytest.mark.parametrize(
    ("content", "restarts"),
    [(b"", None), (b', "RestartCount": 0', 0), (b', "RestartCount": 7', 7)],
    ids=["not told", "0", "7"],
)
def test_restarts(content: bytes, restarts: int | None) -> None:
    assert parse_details(b'{"State": {"Pid": 1}, "Config": {}%s}' % content).restarts == restarts


@pytest.mark.parametrize("number", [b"-1", b'"1"', b"true", b"null", b"1.5"])
def test_restarts_that_are_no_number(number: bytes) -> None:
    with pytest.raises(ParseError, match="RestartCount"):
        parse_details(b'{"State": {"Pid": 1}, "Config": {}, "RestartCount": %s}' % number)


def test_info() -> None:
    assert parse_info(INFO) == Info(2, 1, 4, 1, "/var/lib/docker")
    assert parse_info(INFO.replace(b"DockerRootDir", b"Other")).root == ""


@pytest.mark.parametrize("key", [b"ContainersRunning", b"ContainersPaused", b"ContainersStopped", b"Images"])
def test_info_without_a_number(key: bytes) -> None:
    with pytest.raises(ParseError, match=key.decode()):
        parse_info(INFO.replace(key, b"Other"))


def test_states_and_volumes_are_counted() -> None:
    states = b'[{"State": "created"}, {"State": "dead"}, {"State": "created"}]'
    assert count_states(states) == {"created": 2, "dead": 1}
    assert count_states(b"[]") == {}
    assert count_volumes(b'{"Volumes": [{"Name": "a"}, {"Name": "b"}], "Warnings": null}') == 2
    assert count_volumes(b'{"Volumes": null, "Warnings": null}') == 0


def test_what_an_event_says_of_its_container() -> None:
    started = parse_event(next(line for line in CHANGES if b'"Action":"start"' in line))
    assert started.attributes["name"] == "web"
    assert started.attributes["container"] == "of another one"


def test_the_name_of_a_link_is_not_the_containers_own() -> None:
    assert parse_listing(b'[{"Id": "1", "Names": ["/shop/db", "/db"]}]') == [Listed("1", "db", "")]


@pytest.mark.parametrize("names", [b"null", b"[]", b"[7]", b'["/a/b"]'])
def test_without_a_name_the_id_stands_in(names: bytes) -> None:
    assert parse_listing(b'[{"Id": "1", "Names": ' + names + b"}]") == [Listed("1", "1", "")]


def test_details() -> None:
    details = parse_details(DETAILS)
    pid = json.loads(DETAILS)["State"]["Pid"]
    labels = {"com.example.app": "shop", 'odd,"label"': "a=b, c\n🙂"}
    env = {"MODE": "a=b", "EMPTY": ""}
    assert details == Details(pid, "falcon-test/busybox", "default", labels, env, restarts=0)


def test_details_of_a_container_that_shares_a_network() -> None:
    details = parse_details(SHARING)
    assert details.network_mode == f"container:{WEB}"
    assert (details.labels, details.env) == ({}, {})


def test_a_variable_without_value_is_left_out() -> None:
    item = json.loads(DETAILS)
    item["Config"]["Env"] = ["LOST", "KEPT=1", "=", None]
    assert parse_details(json.dumps(item).encode()).env == {"KEPT": "1", "": ""}


def test_events() -> None:
    assert [parse_event(line) for line in EVENTS] == [
        Event("start", WEB),
        Event("start", SIDE),
        Event("rename", WEB),
        Event("die", WEB),
    ]


def test_an_event_of_a_network_is_one_of_the_container() -> None:
    assert {event.id for event in map(parse_event, CHANGES)} == {CHANGING}
    assert [event.action for event in map(parse_event, CHANGES)] == [
        *("connect", "start", "pause", "unpause", "update"),
        *("connect", "disconnect", "disconnect", "die", "disconnect"),
    ]


def test_a_label_cannot_pass_an_event_off_as_another_containers() -> None:
    """The attributes of a container's event are its labels, and one of these is called `container`."""
    started = next(line for line in CHANGES if b'"Action":"start"' in line)
    assert json.loads(started)["Actor"]["Attributes"]["container"] == "of another one"
    assert parse_event(started).id == CHANGING


def test_events_of_podman() -> None:
    assert [parse_event(line) for line in PODMAN_EVENTS] == [
        Event("start", PODMAN_WEB),
        Event("start", PODMAN_SIDE),
        Event("pause", PODMAN_SIDE),
        Event("unpause", PODMAN_SIDE),
        Event("rename", PODMAN_WEB),
        Event("connect", PODMAN_WEB),
        Event("disconnect", PODMAN_WEB),
        Event("die", PODMAN_SIDE),
        Event("die", PODMAN_WEB),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"7",
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"Id": 7}]',
        b'[{"Id": "1", "Names": 7}]',
        b'[{"Id": "1", "HostConfig": [1]}]',
        b'[{"Id": "1", "HostConfig": {"NetworkMode": 7}}]',
        b'{"State": {"Pid": "7"}, "Config": {}}',
        b'{"State": {"Pid": true}, "Config": {}}',
        b'{"State": {"Pid": -7}, "Config": {}}',
        b'{"State": {"Pid": 7}}',
        b'{"State": {"Pid": 7}, "Config": {"Env": "A=1"}}',
        b'{"State": {"Pid": 7}, "Config": {"Labels": ["a"]}}',
        b'{"Action": "die"}',
        b'{"Action": "die", "Actor": {}}',
        b'{"Action": 7, "Actor": {"ID": "1"}}',
        b'{"Type": "network", "Action": "connect", "Actor": {"ID": "1", "Attributes": [1]}}',
        b'{"Type": "network", "Action": "connect", "Actor": {"ID": "1", "Attributes": {"container": 7}}}',
        b"<html>",
        b'\xff\xfe"',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("parse", PARSERS)
def test_another_form_is_a_typed_error(parse: Callable[[bytes], Any], content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse"):
        parse(content)


@given(st.sampled_from([LISTING, DETAILS, EVENTS[0], CHANGES[0], PODMAN_LISTING]), st.data())
def test_truncated_answers_are_typed_errors(content: bytes, data: st.DataObject) -> None:
    cut = content.rstrip()[: data.draw(st.integers(0, len(content.rstrip()) - 1))]
    for parse in PARSERS:
        with pytest.raises(ParseError):
            parse(cut)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Id", "Names", "HostConfig", "NetworkMode", "State", "Pid", "Config", "Env", "Labels"]
            )
            | st.sampled_from(["Image", "Action", "Actor", "ID", "Type", "Attributes", "container"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_is_a_value_or_a_typed_error(value: object) -> None:
    content = json.dumps(value).encode()
    for parse in PARSERS:
        try:
            parse(content)
        except ParseError as error:
            assert str(error).startswith("cannot parse")  # noqa: PT017
