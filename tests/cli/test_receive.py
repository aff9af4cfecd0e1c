from __future__ import annotations

import http.client
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.programs import PATIENCE, shown_on

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = (sys.executable, "-m", "falcon_agent", "receive")
ITEM: dict[str, Any] = {
    "endpoint": "h1", "metric": "m", "value": 1, "step": 60, "counterType": "GAUGE", "tags": "name=web",
    "timestamp": 1795161720,
}  # fmt: skip


class Running:
    def __init__(self, *options: str, stdout: int = subprocess.PIPE, listen: str = "127.0.0.1:0") -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "--listen", listen, *options], stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.first_line = self.process.stderr.readline()
        found = re.search(r":(\d+)/api/push$", self.first_line.strip())
        self.port = int(found[1]) if found else 0

    def post(self, body: bytes, host: str = "127.0.0.1") -> int:
        connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE)
        connection.request("POST", "/api/push", body)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def receive(*options: str, stdout: int = subprocess.PIPE, listen: str = "127.0.0.1:0") -> Iterator[Running]:
    running = Running(*options, stdout=stdout, listen=listen)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def failing(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [*PROGRAM, *options],
        # A name server that does not answer is not what is tested (resolv.conf(5)).
        env=os.environ | {"RES_OPTIONS": "timeout:1 attempts:1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def body(*items: Any) -> bytes:
    return json.dumps(items).encode()


def test_lines_name_each_item_and_its_fate() -> None:
    with receive("--count", "2") as running:
        running.post(body(ITEM, {**ITEM, "metric": ""}))
        running.post(body(ITEM))
        code, out, err = running.end()
    assert code == 0
    head, fine, invalid, second_head, dropped = out.splitlines()
    assert re.fullmatch(
        r'127\.0\.0\.1:\d+ POST /api/push: 200 \{"msg":"success".*"Total":2,"Invalid":1.*', head
    )
    assert fine.split() == ["ok", "1795161720", "h1", "m", "1", "60", "GAUGE", "name=web"]
    assert invalid.split()[0] == "invalid"
    assert invalid.endswith("metric is empty")
    assert "200" in second_head
    assert dropped.endswith("the series has a point of this time already")
    assert err == "2 pushes: 1 ok, 1 dropped, 1 invalid\n"


def test_json_is_one_object_per_item_and_line() -> None:
    odd = {"a": "\x1b[31m", "b": [None]}
    with receive("--json", "--count", "3") as running:
        running.post(body(ITEM, None))
        running.post(body(odd))
        running.post(b"nonsense")
        code, out, _ = running.end()
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"push": 1, "path": "/api/push", "status": 200, "fate": "ok", "why": [], "item": ITEM}
    assert (lines[1]["fate"], lines[1]["item"]) == ("invalid", None)
    assert (lines[2]["push"], lines[2]["fate"], lines[2]["item"]) == (2, "invalid", odd)
    assert lines[3] == {"push": 3, "path": "/api/push", "status": 400, "answer": "decode error"}


def test_values_that_json_cannot_express() -> None:
    with receive("--json", "--count", "2") as running:
        assert running.post(b'[{"endpoint":"h","value":1e999}]') == 400
        assert running.post(b'[{"endpoint":"\\ud800"}]') == 200
        code, out, _ = running.end()
    assert code == 0
    assert [json.loads(line)["fate"] for line in out.splitlines()] == ["rejected", "invalid"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_control_characters_never_come_out_raw(options: tuple[str, ...]) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\r\n\u202e"
    with receive("--count", "1", *options) as running:
        running.post(body({**ITEM, "endpoint": evil, "tags": evil}, {evil: evil}, evil * 1000, [evil]))
        code, out, _ = running.end()
    assert code == 0
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(out)
    assert "owned" in out


def test_long_values_are_cut_in_lines() -> None:
    with receive("--count", "1") as running:
        running.post(body({**ITEM, "endpoint": "h" * 100_000, "value": list(range(100_000))}))
        _, out, _ = running.end()
    assert len(out) < 5000


def test_a_table_on_a_terminal() -> None:
    screen, terminal = pty.openpty()
    try:
        with receive("--count", "1", stdout=terminal) as running:
            running.post(body({**ITEM, "endpoint": "\x1b]0;owned\x07[bold]"}))
            running.process.wait(PATIENCE)
    finally:
        shown = shown_on(screen, terminal)
        os.close(screen)
    assert "FATE" in shown
    assert "\x1b]0;" not in shown
    assert "1795161720"[:5] in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(number: signal.Signals) -> None:
    with receive() as running:
        running.post(body(ITEM))
        assert running.process.stdout is not None
        # The push was shown at once, not when the buffer was full.
        assert "POST /api/push" in running.process.stdout.readline()
        running.process.send_signal(number)
        code, _, err = running.end()
    assert (code, err) == (0, "1 push: 1 ok\n")


def test_nothing_came() -> None:
    with receive() as running:
        running.process.send_signal(signal.SIGTERM)
        code, out, err = running.end()
    assert (code, out, err) == (0, "", "0 pushes: no items\n")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_other_hosts_are_kept_out_unless_told_otherwise(listen: str) -> None:
    code, err = failing("--listen", listen)
    assert code == 2
    assert "cannot listen on" in err
    assert "--allow-remote" in err
    with receive("--allow-remote", "--count", "1", listen="0.0.0.0:0") as running:
        assert running.post(b"[]") == 200
        assert running.end()[0] == 0


@pytest.mark.parametrize("listen", ["localhost:0", "[::1]:0", "127.0.0.2:0"])
def test_loopback_in_every_form(listen: str) -> None:
    with receive("--count", "1", listen=listen) as running:
        assert running.first_line.startswith("listening on http://")
        host = listen.rpartition(":")[0].strip("[]")
        assert running.post(b"[]", host) == 200
        assert running.end()[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--listen", "6060"),
        ("--listen", ":6060"),
        ("--listen", "127.0.0.1:"),
        ("--listen", "127.0.0.1:66000"),
        ("--listen", "127.0.0.1:" + "9" * 5000),
        ("--count", "0"),
        ("--count", "-1"),
        ("--count", "x"),
    ],
)
def test_unusable_options(options: tuple[str, ...]) -> None:
    code, err = failing(*options)
    assert code == 2
    assert f"argument {options[0]}" in err


def test_a_port_in_use() -> None:
    with receive() as running:
        code, err = failing("--listen", f"127.0.0.1:{running.port}")
    assert code == 1
    assert err == f"falcon-agent: cannot listen on 127.0.0.1 port {running.port}: Address already in use\n"


def test_a_name_that_does_not_resolve() -> None:
    code, err = failing("--listen", "nosuch.invalid:6060")
    assert code == 1
    assert err.startswith("falcon-agent: cannot listen on nosuch.invalid: ")


def test_a_reader_that_went_away_ends_it() -> None:
    with receive("--json") as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        running.process.stdout = None
        running.post(body(ITEM))
        assert running.process.wait(PATIENCE) != 0
        assert running.process.stderr is not None
        assert "Traceback" not in running.process.stderr.read()


def test_help_has_examples() -> None:
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "examples:" in done.stdout
    assert "--allow-remote" in done.stdout
