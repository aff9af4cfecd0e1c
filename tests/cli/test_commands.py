"""The commands as a person or a script meets them: real processes, real containers, real exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo import throwaway
from falcon_agent.cli import COMMANDS
from falcon_agent.cli.metrics import markdown
from falcon_agent.cli.show import amount, printable
from falcon_agent.collectors import catalogue
from tests.cli.programs import (
    AGENT,
    PATIENCE,
    environment,
    falcon_agent,
    receiver,
    run_by,
    settings_file,
    until,
)
from tests.ports import free_port

if TYPE_CHECKING:
    from demo.throwaway import Throwaway

ANY = {"DISCOVERY__RUNTIMES": "cgroups"}
# Whatever else runs on this machine is none of these tests' business.
CGROUPS = ANY | {"DISCOVERY__INCLUDE__NAME": "web,worker"}
ROOT = Path(__file__).parent.parent.parent


def unprivileged(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who may do nothing special."""
    prefix = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all")
    return run_by(prefix, *args, **settings)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    done = falcon_agent(command, "--help")
    assert done.returncode == 0
    examples = done.stdout.split("examples:")[1]
    assert f"falcon-agent {command}" in examples


def test_wrong_command_lines_are_refused_without_a_traceback() -> None:
    for args in (
        [],
        ["fly"],
        ["collect", "--samples", "0"],
        ["collect", "--json", "--table"],
        ["explain", "web"],
    ):
        done = falcon_agent(*args)
        assert done.returncode == 2, args
        assert "usage:" in done.stderr
        assert "Traceback" not in done.stderr


def test_version() -> None:
    assert re.fullmatch(r"falcon-agent \d+\.\d+\.\d+\n", falcon_agent("--version").stdout)


# metrics


def test_docs_are_what_the_code_says() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == "\n".join(markdown(list(catalogue()))) + "\n"


def test_catalogue_is_complete_and_consistent() -> None:
    rows = json.loads(falcon_agent("metrics", "--json").stdout)
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        assert row["counterType"] in {"GAUGE", "COUNTER"}
        assert row["unit"]
        assert row["help"].endswith(".")
        assert row["formula"]
        assert row["collector"] == "agent" or row["sources"], row["name"]
        assert len(row["name"]) <= 64
    table = falcon_agent("metrics").stdout
    assert all(name in table for name in names)


# collect


@pytest.mark.real
def test_collect_into_a_pipe_is_the_json_that_is_pushed(containers: tuple[Throwaway, ...]) -> None:
    with receiver() as got:
        done = falcon_agent("collect", **CGROUPS, TRANSFER__ADDRESSES=got.url)
        assert done.returncode == 0, done.stderr
        pushed = json.loads(done.stdout)
        until(lambda: len(got.items) >= len(pushed), "everything")
        assert got.items == pushed
        assert f"{len(pushed)} records accepted by {got.url}" in done.stderr
    busy = [item for item in got.items if item["metric"] == "container.cpu.busy"]
    assert {item["tags"] for item in busy} == {"name=web", "name=worker"}
    assert {item["timestamp"] % 60 for item in got.items} == {0}
    # Where others want the CPU too, a container may get none for a second.
    until(lambda: at_work(pushed) or at_work(json.loads(dry_run().stdout)), "both to use the CPU")


def at_work(records: list[dict[str, Any]]) -> bool:
    return all(record["value"] > 0 for record in records if record["metric"] == "container.cpu.busy")


def dry_run() -> subprocess.CompletedProcess[str]:
    return falcon_agent("collect", "--dry-run", **CGROUPS)


@pytest.mark.real
def test_collect_dry_run_pushes_nothing(containers: tuple[Throwaway, ...]) -> None:
    with receiver() as got:
        done = falcon_agent(
            "collect", "--dry-run", "--once", "--samples", "1", **CGROUPS, TRANSFER__ADDRESSES=got.url
        )
        assert done.returncode == 0
        assert json.loads(done.stdout)
        assert got.arrivals == []
    metrics = {item["metric"] for item in json.loads(done.stdout)}
    assert "container.cpu.limit.cores" in metrics
    assert "container.cpu.busy" not in metrics  # one sample makes no rate


@pytest.mark.real
def test_collect_of_one_container(containers: tuple[Throwaway, ...]) -> None:
    done = falcon_agent("collect", "--dry-run", "--container", "web", **CGROUPS)
    assert {tag for item in json.loads(done.stdout) for tag in item["tags"].split(",")} == {
        "name=web",
        "iface=eth0",
        "port=8000",
    }
    done = falcon_agent("collect", "--dry-run", "--container", "wbe", **CGROUPS)
    assert done.returncode == 1
    assert "cannot find container 'wbe': running are 'web'" in done.stderr


@pytest.mark.real
def test_collect_says_when_no_transfer_answers(containers: tuple[Throwaway, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/push"
    done = falcon_agent("collect", "--samples", "1", **CGROUPS, TRANSFER__ADDRESSES=url)
    assert done.returncode == 1
    assert f"cannot push to {url}: connection refused" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.real
def test_collect_on_a_terminal_is_a_table_with_units(containers: tuple[Throwaway, ...]) -> None:
    shown = on_terminal("collect", "--dry-run")
    assert "web" in shown
    row = next(line for line in shown.splitlines() if "container.mem.memtotal" in line)
    assert row.split()[1:] == ["64.0", "MiB"]
    assert "\x1b[" in shown  # colour or weight, on a terminal only
    assert "\x1b[" not in falcon_agent("collect", "--dry-run", "--table", **CGROUPS).stdout


def on_terminal(*args: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    master, slave = pty.openpty()
    settings = environment(**CGROUPS) | {"COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen([AGENT, *args], stdout=slave, stdin=slave, env=settings) as process:
        os.close(slave)
        shown = b""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not select.select([master], [], [], 0.5)[0]:
                continue
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
        assert process.wait(PATIENCE) == 0
    os.close(master)
    return shown.decode()


def test_collect_without_containers_says_so() -> None:
    done = falcon_agent("collect", "--dry-run", "--table", DISCOVERY__EXCLUDE__NAME="*", **CGROUPS)
    assert done.returncode == 0
    assert "no containers found" in done.stdout


def test_a_closed_pipe_is_not_an_error_with_a_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{AGENT} metrics | head -n 1"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# containers


@pytest.mark.real
def test_containers_shows_what_the_kernel_says(containers: tuple[Throwaway, ...]) -> None:
    done = falcon_agent("containers", "--json", DISCOVERY__EXCLUDE__NAME="work*", **CGROUPS)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    web = next(one for one in document["containers"] if one["name"] == "web")
    made = containers[0]
    assert web["pid"] == made.pid
    assert web["netns"] == os.stat(f"/proc/{made.pid}/ns/net").st_ino
    assert web["veth"] == {"eth0": made.veth}
    assert web["cgroup"].endswith("/web")
    left_out = {one["name"]: one["reason"] for one in document["left_out"]}
    assert "work*" in left_out["worker"]
    table = falcon_agent("containers", **CGROUPS).stdout
    assert f"eth0={made.veth}" in table


def test_containers_of_a_runtime_that_is_not_there() -> None:
    done = falcon_agent(
        "containers", DISCOVERY__RUNTIMES="docker", DISCOVERY__DOCKER="unix:///nonexistent/docker.sock"
    )
    assert done.returncode == 1
    assert "/nonexistent/docker.sock" in done.stdout
    assert "Traceback" not in done.stderr


# explain


@pytest.mark.real
def test_explain_shows_files_lines_formula_and_value(containers: tuple[Throwaway, ...]) -> None:
    started = time.monotonic()
    done = falcon_agent("explain", "web", "container.cpu.busy", "--json", **CGROUPS)
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    usage = next(read for read in document["reads"] if "usage" in read["file"] or "cpu.stat" in read["file"])
    assert os.path.exists(usage["file"])
    # What has not changed is shown once.
    (before,), (now,) = usage["before"] or usage["now"], usage["now"]
    # cpu.stat (v2) counts in microseconds, cpuacct.usage (v1) in nanoseconds.
    used = (int(now.split()[-1]) - int(before.split()[-1])) / (1e6 if "usage_usec" in now else 1e9)
    # Half a core is all it may use; over a second or more, but not as long as all of it took.
    share = used / 0.5 * 100
    assert share / took - 0.001 <= document["values"][0]["value"] <= share + 0.001
    text = falcon_agent("explain", "web", "container.net.if.out.bytes", **CGROUPS).stdout
    assert f"RTM_GETSTATS {containers[0].veth}" in text
    assert "rx_bytes" in text


@pytest.mark.real
def test_explain_says_why_there_is_none(containers: tuple[Throwaway, ...]) -> None:
    done = falcon_agent("explain", "worker", "container.cpu.throttled.percent", **CGROUPS)
    assert done.returncode == 1
    assert "no value: no CPU quota is set" in done.stdout


@pytest.mark.real
def test_explain_of_unknown_things(containers: tuple[Throwaway, ...]) -> None:
    done = falcon_agent("explain", "web", "container.cpu.bsy", **CGROUPS)
    assert done.returncode == 1
    assert "did you mean container.cpu.busy" in done.stderr
    done = falcon_agent("explain", "nobody", "container.cpu.busy", **CGROUPS)
    assert done.returncode == 1
    assert "cannot find container 'nobody'" in done.stderr
    done = falcon_agent("explain", "web", "container.cpu.busy", **CGROUPS, COLLECTORS__ENABLED="memory")
    assert "'cpu' is not in [collectors] enabled" in done.stderr


# check


@pytest.mark.real
def test_check_is_content_where_everything_works(containers: tuple[Throwaway, ...]) -> None:
    with receiver() as got:
        done = falcon_agent("check", "--json", **CGROUPS, TRANSFER__ADDRESSES=got.url)
        findings = json.loads(done.stdout)["findings"]
        assert done.returncode == 0, findings
        # An empty push is not a record.
        assert got.items == []
    assert {finding["level"] for finding in findings} <= {"ok", "note"}


@pytest.mark.real
def test_check_names_what_will_be_missing(containers: tuple[Throwaway, ...], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    with receiver() as got:
        dead = f"http://127.0.0.1:{free_port()}/api/push"
        path = settings_file(
            tmp_path / "agent.toml",
            {
                "agent": {"step": 10},
                "transfer": {"addresses": [got.url, dead], "username": "u", "password_file": str(secret)},
                "discovery": {"runtimes": ["cgroups"]},
            },
        )
        done = falcon_agent("check", "--config", path)
    assert done.returncode == 1
    assert re.search(r"warn +agent.step: 10 s is below 30 s", done.stdout)
    assert re.search(rf"warn +transfer: cannot push to {dead}", done.stdout)
    assert re.search(r"warn +password_file: everybody", done.stdout)


def test_check_of_what_cannot_work(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}/api/push"
    done = falcon_agent("check", **CGROUPS, TRANSFER__ADDRESSES=dead)
    assert done.returncode == 2
    assert re.search(r"fail +transfer: cannot push", done.stdout)
    path = tmp_path / "agent.toml"
    path.write_text("[agent]\nstep = 'x'\n")
    done = falcon_agent("check", "--config", str(path), "--json")
    assert done.returncode == 2
    assert "agent.step" in json.loads(done.stdout)["findings"][0]["text"]


@pytest.mark.real
def test_without_privileges_the_rest_is_measured_and_check_says_what_is_not(
    containers: tuple[Throwaway, ...],
) -> None:
    done = unprivileged("collect", "--dry-run", "--json", **CGROUPS)
    assert done.returncode == 0, done.stderr
    of_web: dict[str, Any] = {
        item["metric"]: item["value"]
        for item in json.loads(done.stdout)
        if "name=web" in item["tags"].split(",")
    }
    assert of_web["container.cpu.busy"] >= 0
    assert of_web["container.mem.memused"] > 0
    assert of_web["container.net.if.in.bytes"] > 0
    assert of_web["container.tcp.inuse"] > 0
    assert "container.tcp.orphan" not in of_web
    check = unprivileged("check", **CGROUPS)
    assert re.search(
        r"warn +privileges: CAP_SYS_\w+ and CAP_SYS_\w+ missing.*container.tcp.orphan", check.stdout
    )
    assert "Traceback" not in check.stderr


# what is shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "bytes", "0 B"),
        (1023, "bytes", "1023 B"),
        (1536, "bytes", "1.5 KiB"),
        (64 * 1024**2, "bytes", "64.0 MiB"),
        (12.5, "percent", "12.5 %"),
        (1234567, "packets", "1,234,567 packets"),
        (1, "1", "1"),
    ],
)
def test_amounts(value: float, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_names_from_outside_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202e\U0001f600") == "a\\x1b[31mb\\nc\\u202e\U0001f600"


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "sp ace",
        "quo'te\"s",
        "com,ma=equals",
        "tab\there",
        "emoji\U0001f600",
        "生产",
        "\x1b[31mred",
        "x" * 250,
    ],
)
def test_a_container_with_an_odd_name(name: str) -> None:
    odd = throwaway.start(name, 2, busy=0.05)
    with throwaway.running(odd), receiver() as got:
        done = falcon_agent("collect", **ANY, TRANSFER__ADDRESSES=got.url)
        shown = falcon_agent("containers", **ANY).stdout
        assert done.returncode == 0, done.stderr
        until(lambda: len(got.items) >= len(json.loads(done.stdout)), "everything")
    assert {arrival["fate"] for arrival in got.arrivals} == {"ok"}
    cores = [item for item in got.items if item["metric"] == "container.cpu.cores"]
    assert cores
    assert all(len(item["tags"].encode()) < 255 for item in cores)
    assert "\x1b" not in shown
