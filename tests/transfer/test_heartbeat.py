from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.heartbeat import Heartbeat, own_address, refusal, status_of
from tests.ports import free_port
from tests.transfer import rpcdouble
from tests.transfer.pushing import SHORT, has_thread, until
from tests.transfer.rpcdouble import RpcDouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.transfer.rpcdouble import Fault


@contextmanager
def beating(
    address: str, interval: float = 0.02, timeout: float = 10.0
) -> Iterator[tuple[Heartbeat, SelfStat]]:
    stat = SelfStat()
    heartbeat = Heartbeat(address, "web-1", "10.0.0.7", "0.1.0", stat, interval, timeout)
    heartbeat.start()
    try:
        yield heartbeat, stat
    finally:
        heartbeat.stop()


def test_what_is_reported(rpc: RpcDouble) -> None:
    with beating(rpc.host_port, 600.0) as (_, stat):
        until(lambda: stat.total("heartbeat.ok") == 1)
    assert rpc.calls == [
        {
            "method": "Agent.ReportStatus",
            "params": [
                {
                    "Hostname": "web-1",
                    "IP": "10.0.0.7",
                    "AgentVersion": "0.1.0",
                    "PluginVersion": "plugin not enabled",
                }
            ],
            "id": 1,
        }
    ]


def test_reports_go_on_over_one_connection(rpc: RpcDouble) -> None:
    with beating(rpc.host_port) as (_, stat):
        until(lambda: stat.total("heartbeat.ok") >= 5)
    assert rpc.connections == 1
    until(lambda: not has_thread("heartbeat"))
    assert stat.total("heartbeat.failed") == 0


@pytest.mark.parametrize(
    ("hostname", "ip", "version", "expected"),
    [
        ("a'b\"c\\", "10.0.0.1", "1.0", ("a_b_c_", "10.0.0.1", "1.0")),
        ("web`; --", "1.2.3.4'", "1'\\", ("web_;_--", "", "1__")),
        ("主机", "::1", "0.1.0+very.long.build", ("主机", "::1", "0.1.0+very.long.")),
        ("h", "2001:db8:1:2:3:4:5:6", "", ("h", "", "")),
        ("h", "fe80::1%eth0", "1", ("h", "fe80::1", "1")),
        ("h", "", "1", ("h", "", "1")),
    ],
)
def test_fields_are_harmless_and_fit(
    hostname: str, ip: str, version: str, expected: tuple[str, str, str]
) -> None:
    status = json.loads(status_of(hostname, ip, version))
    assert (status["Hostname"], status["IP"], status["AgentVersion"]) == expected


@given(st.text(), st.text(), st.text())
def test_no_field_ever_holds_a_quote(hostname: str, ip: str, version: str) -> None:
    status = json.loads(status_of(hostname, ip, version))
    assert not set("'\"\\`\n\0") & set("".join(status.values()))
    assert len(status["AgentVersion"]) <= 16
    assert len(status["IP"]) <= 16
    assert len(status["Hostname"].encode()) <= 255


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"code": 0}, None),
        ({"code": 0, "msg": ""}, None),
        ({"code": 1}, "it answered with code 1"),
        ({"code": "0"}, "no hbs says"),
        ({}, "no hbs says"),
        (None, "no hbs says"),
        ({"Message": "ok", "Total": 0, "Invalid": 0}, "no hbs says"),
    ],
)
def test_results(result: Any, words: str | None) -> None:
    found = refusal(result)
    assert found is None if words is None else words in (found or "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(rpcdouble.close, "closed", id="closes"),
        pytest.param(rpcdouble.hang, "timeout", id="hangs"),
        pytest.param(rpcdouble.drip(b" "), "timeout", id="drips"),
        pytest.param(rpcdouble.say(b"HTTP/1.1 400"), "garbage", id="another protocol"),
        pytest.param(rpcdouble.say(b'{"id":1,"result":"' + b"x" * 1_000_000), "garbage", id="endless"),
        pytest.param(rpcdouble.answer({"code": 1}), "refused_report", id="refuses"),
        pytest.param(rpcdouble.answer(None, "rpc: can't find service"), "rpc_error", id="another service"),
    ],
)
def test_failures_are_counted_and_logged_when_they_change(
    rpc: RpcDouble, fault: Fault, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    rpc.default = fault
    timeout = SHORT / 2 if reason == "timeout" else 10.0
    with caplog.at_level(logging.INFO), beating(rpc.host_port, timeout=timeout) as (heartbeat, stat):
        until(lambda: stat.total("heartbeat.failed") >= 3)
        heartbeat._connection._timeout = 10.0
        rpc.default = None
        until(lambda: stat.total("heartbeat.ok") >= 2)
    assert set(stat.reasons("heartbeat.failed")) == {reason}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"cannot report to hbs at {rpc.host_port}: " in caplog.text


def test_an_hbs_that_comes_back_is_found_again() -> None:
    first = RpcDouble(free_port())
    with beating(first.host_port) as (_, stat):
        until(lambda: stat.total("heartbeat.ok"))
        first.close()
        until(lambda: stat.reasons("heartbeat.failed").get("refused"))
        again = RpcDouble(first.port)
        try:
            until(lambda: again.reports)
        finally:
            again.close()


def test_the_wait_after_failures_grows_to_the_interval(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.close
    heartbeat = Heartbeat(rpc.host_port, "h", "", "1", SelfStat())
    waits = [heartbeat._beat() for _ in range(40)]
    rpc.default = None
    assert heartbeat._beat() == 60.0
    assert all(
        min(60.0, 2.0**attempt) / 2 <= wait <= min(60.0, 2.0**attempt)
        for attempt, wait in enumerate(waits, 1)
    )
    heartbeat.stop()


def test_stopping_ends_a_report_that_hangs(rpc: RpcDouble, caplog: pytest.LogCaptureFixture) -> None:
    rpc.default = rpcdouble.hang
    with beating(rpc.host_port, timeout=600.0) as (heartbeat, stat):
        until(lambda: rpc.calls)
        heartbeat.stop()
        until(lambda: not has_thread("heartbeat"))
    assert stat.total("heartbeat.failed") == 0
    assert not caplog.records


def test_stopping_ends_a_wait(rpc: RpcDouble) -> None:
    with beating(rpc.host_port, 600.0) as (heartbeat, stat):
        until(lambda: stat.total("heartbeat.ok"))
        heartbeat.stop()
        until(lambda: not has_thread("heartbeat"))


def test_stopping_what_never_started(rpc: RpcDouble) -> None:
    Heartbeat(rpc.host_port, "h", "", "1", SelfStat()).stop()


def test_a_name_that_does_not_resolve(caplog: pytest.LogCaptureFixture) -> None:
    # One of which no name server is asked: that may take long.
    with beating("no..such:6030") as (_, stat):
        until(lambda: stat.total("heartbeat.failed") >= 2)
    assert set(stat.reasons("heartbeat.failed")) == {"dns"}
    assert len(caplog.records) == 1


def test_a_mistake_of_its_own_does_not_end_it(rpc: RpcDouble, caplog: pytest.LogCaptureFixture) -> None:
    with beating(rpc.host_port) as (heartbeat, stat):
        until(lambda: stat.total("heartbeat.ok"))
        heartbeat._hostname = None  # type: ignore[assignment]
        until(lambda: stat.reasons("heartbeat.failed").get("internal"))
        heartbeat._hostname = "web-1"
        before = stat.total("heartbeat.ok")
        until(lambda: stat.total("heartbeat.ok") > before)


def test_without_an_address_the_one_that_reaches_hbs_is_told(rpc: RpcDouble) -> None:
    stat = SelfStat()
    heartbeat = Heartbeat(rpc.host_port, "web-1", "", "0.1.0", stat)
    heartbeat.start()
    try:
        until(lambda: stat.total("heartbeat.ok"))
    finally:
        heartbeat.stop()
    assert rpc.reports[0]["IP"] == "127.0.0.1"


def test_an_address_that_nothing_reaches_is_left_empty() -> None:
    assert own_address("nosuch.invalid:6030") == ""
