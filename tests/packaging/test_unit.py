"""The unit and each of its drop-ins, as installed, on a machine of their own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.packaging.booted import Booted, booted
from tests.packaging.distribution import install
from tests.real.engine import make_busybox, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

_SHIPPED = "/usr/share/falcon-agent/falcon-agent.service.d"
_ENABLED = "/etc/systemd/system/falcon-agent.service.d"
_CAPABILITIES = {
    1: "DAC_OVERRIDE",
    2: "DAC_READ_SEARCH",
    11: "NET_BROADCAST",
    19: "SYS_PTRACE",
    21: "SYS_ADMIN",
    34: "SYSLOG",
}

CPU, TCP, DF, LAYER = (
    "container.cpu.busy",
    "container.tcp.listen",
    "container.df.bytes.total",
    "container.layer.bytes",
)
_BY_AGE = "changes of interfaces are noticed by their age"


@pytest.fixture(scope="module", autouse=True)
def stuck(rpm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine whose agent was stopped in its tracks, before the other tests: to be missed takes half a minute."""
    with booted() as made:
        install(made, rpm, tmp_path_factory.mktemp("stuck"))
        made.sh(
            f"printf '[Service]\\nWatchdogSec=5\\nRestartSec=1\\n' > {_ENABLED}/soon.conf; systemctl daemon-reload"
        )
        made.set_step(1)
        made.run("systemctl", "start", "falcon-agent")
        made.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "falcon-agent")
        yield made


@pytest.fixture(scope="module")
def machine(rpm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine with the agent as installed, but for the step, a transfer, and containers of other users."""
    with booted() as made:
        install(made, rpm, tmp_path_factory.mktemp("unit"))
        made.set_step(1)
        made.start_receiver()
        made.start_box()
        make_busybox(made.shared / "root")
        made.sh(
            "systemctl start docker; tar -C /shared/root -c . | docker import - busybox:test;"
            " docker run --detach --name web busybox:test sh -c 'echo 12345 > /written; sleep 1000'"
        )
        # podman's socket, as podman's unit makes it; the API behind it is the same.
        made.sh(
            "systemd-run --quiet --unit=podman --socket-property=ListenStream=/run/podman/podman.sock"
            " --socket-property=SocketMode=0600 --socket-property=DirectoryMode=0700"
            " /usr/lib/systemd/systemd-socket-proxyd /run/docker.sock"
        )
        yield made


@pytest.fixture
def agent(machine: Booted) -> Iterator[Callable[..., set[str]]]:
    """Starts the agent with drop-ins and settings; returns what is measured, as `metric of container`, and more."""

    def start(*drop_ins: str, until: str = f"{CPU} box", **settings: str) -> set[str]:
        machine.run("systemctl", "stop", "falcon-agent")
        for name in drop_ins:
            machine.run("ln", "-s", f"{_SHIPPED}/{name}", _ENABLED)
        lines = "".join(f"Environment=FALCON_AGENT__{key}={value}\\n" for key, value in settings.items())
        machine.sh(f"printf '[Service]\\n{lines}' > {_ENABLED}/settings.conf; systemctl daemon-reload")
        machine.forget_records()
        machine.run("systemctl", "start", "falcon-agent")
        wait_until(lambda: until in _measured(machine), f"{until} is measured")
        # What is measured at all is there a cycle later.
        cycles = len(_cycles(machine))
        wait_until(lambda: len(_cycles(machine)) > cycles + 1, "two more cycles")
        return _measured(machine)

    yield start
    machine.sh(f"systemctl stop falcon-agent; rm -f {_ENABLED}/*.conf; systemctl daemon-reload")


def _measured(machine: Booted) -> set[str]:
    found = set()
    for item in machine.records():
        name = dict(tag.split("=", 1) for tag in item["tags"].split(",") if "=" in tag).get("name", "")
        found.add(f"{item['metric']} {name}".strip())
    return found


def _cycles(machine: Booted) -> set[int]:
    return {item["timestamp"] for item in machine.records()}


def _capabilities(machine: Booted) -> set[str]:
    status = machine.status()
    held = int(status["CapEff"], 16)
    # Nobody can get at more, or hand on less.
    assert {status[which] for which in ("CapPrm", "CapBnd", "CapInh", "CapAmb")} == {status["CapEff"]}
    return {_CAPABILITIES.get(number, str(number)) for number in range(64) if held >> number & 1}


def _groups(machine: Booted) -> set[str]:
    user = machine.run("id", "--user", "falcon-agent").strip()
    assert set(machine.status()["Uid"].split()) == {user}
    return {machine.run("getent", "group", gid).split(":")[0] for gid in machine.status()["Groups"].split()}


def test_verify_has_nothing_to_say(machine: Booted) -> None:
    told = machine.try_run("systemd-analyze", "verify", "--man=no", "falcon-agent.service")
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_security_is_below_two(machine: Booted) -> None:
    assert _exposure(machine) <= 2.0


def _exposure(machine: Booted) -> float:
    told = machine.run("systemd-analyze", "security", "--no-pager", "falcon-agent.service")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found is not None
    return float(found[1])


def test_without_any_privilege_it_measures_what_other_users_run(
    machine: Booted, agent: Callable[..., set[str]]
) -> None:
    short_id = machine.run("docker", "inspect", "--format={{.Id}}", "web")[:12]
    measured = agent(until=f"{CPU} {short_id}")
    assert {CPU + " box", "container.mem.memused box", "container.tcp.inuse box"} <= measured
    assert not {f"{TCP} box", f"{CPU} web"} & measured
    assert _capabilities(machine) == set()
    assert _groups(machine) == {"falcon-agent"}
    wait_until(lambda: _BY_AGE in _since_start(machine), "it says so")
    status = machine.status()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    # Nor could root in its place change a program or a setting.
    within = ["nsenter", f"--target={machine.show('MainPID')}", "--mount", "touch"]
    for path in ("/usr/bin/falcon-agent", "/etc/falcon-agent/agent.toml", "/var/lib/dpkg/status"):
        assert "Read-only file system" in machine.try_run(*within, path).stderr
    # Beside what is for every user of the host, it can write to its state alone.
    inside = ["nsenter", f"--target={machine.show('MainPID')}", "--mount", "setpriv", "--reuid=falcon-agent"]
    inside += [
        "--regid=falcon-agent",
        "--clear-groups",
        "find",
        "/",
        "-type",
        "d",
        "-writable",
        "-not",
        "-path",
    ]
    writable = machine.try_run(*inside, "/proc/*").stdout.splitlines()
    assert set(writable) == {
        "/var/lib/falcon-agent",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/dev/mqueue",
        "/run/lock",
    }


@pytest.mark.parametrize(
    ("drop_ins", "capabilities", "gained"),
    [
        ((), set(), set()),
        (("sockets.conf",), {"SYS_ADMIN", "SYS_PTRACE"}, {f"{TCP} box"}),
        (("filesystems.conf",), {"SYS_PTRACE", "DAC_READ_SEARCH"}, {f"{DF} web"}),
        (("links.conf",), {"NET_BROADCAST"}, set()),
        # nspawn gives the machine no /dev/kmsg, so what can be read there stays untried.
        (("kernellog.conf",), {"SYSLOG"}, set()),
        (
            ("sockets.conf", "filesystems.conf", "links.conf"),
            {"SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_BROADCAST"},
            {f"{TCP} box", f"{DF} web"},
        ),
    ],
)
def test_a_drop_in_gives_what_it_says_and_nothing_else(
    machine: Booted,
    agent: Callable[..., set[str]],
    drop_ins: tuple[str, ...],
    capabilities: set[str],
    gained: set[str],
) -> None:
    # Docker's is always among them, and gives no capability.
    agent("docker.conf", *drop_ins, until=f"{CPU} web")
    # What takes too long in one cycle is there in the next.
    wait_until(lambda: gained <= _measured(machine), f"{gained} is measured")
    measured = _measured(machine)
    assert {f"{TCP} box", f"{DF} web"} & measured == gained
    assert {"container.restarts web", f"{CPU} box"} <= measured
    assert _capabilities(machine) == capabilities
    assert _groups(machine) == {"falcon-agent", "docker"}
    if "links.conf" in drop_ins:
        assert _BY_AGE not in _since_start(machine)
    else:
        wait_until(lambda: _BY_AGE in _since_start(machine), "it says so")


def test_podman_conf_reaches_a_socket_of_roots(machine: Booted, agent: Callable[..., set[str]]) -> None:
    only = {"DISCOVERY__RUNTIMES": "podman"}
    assert f"{CPU} web" not in agent(until="falcon_agent.containers", **only)
    assert f"{CPU} web" in agent("podman.conf", until=f"{CPU} web", **only)
    assert _capabilities(machine) == {"DAC_OVERRIDE"}
    assert _groups(machine) == {"falcon-agent"}


def test_cri_conf_reaches_containerd(machine: Booted, agent: Callable[..., set[str]]) -> None:
    only = {"DISCOVERY__RUNTIMES": "cri"}
    agent(until="falcon_agent.runtime.up", **only)
    assert _last(machine, "falcon_agent.runtime.up") == 0
    agent("cri.conf", until="falcon_agent.runtime.up", **only)
    wait_until(lambda: _last(machine, "falcon_agent.runtime.up") == 1, "containerd answers")
    assert _capabilities(machine) == {"DAC_OVERRIDE"}
    assert _groups(machine) == {"falcon-agent"}


def test_processes_conf_sees_the_layers(machine: Booted, agent: Callable[..., set[str]]) -> None:
    layers = {"COLLECTORS__ENABLED": "cpu,layersize"}
    assert f"{LAYER} web" not in agent("docker.conf", until=f"{CPU} web", **layers)
    machine.run("rm", f"{_ENABLED}/docker.conf")
    assert f"{LAYER} web" in agent("docker.conf", "processes.conf", until=f"{LAYER} web", **layers)
    assert _capabilities(machine) == {"DAC_READ_SEARCH"}


def test_nothing_is_lost_when_it_is_killed(machine: Booted, agent: Callable[..., set[str]]) -> None:
    agent()
    machine.hold_receiver()
    before = max(_cycles(machine))
    wait_until(lambda: len({at for at, _, _ in _waiting(machine)} - {before}) > 2, "some cycles wait")
    waiting = _waiting(machine)
    killed = machine.show("MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "falcon-agent")
    wait_until(lambda: machine.show("MainPID") not in {"0", killed}, "systemd starts it again")
    assert machine.show("NRestarts") != "0"
    machine.release_receiver()
    wait_until(lambda: waiting <= set(map(_series, machine.records())), "all that waited arrives")


def test_a_configuration_that_cannot_be_used_is_not_tried_again(
    machine: Booted, agent: Callable[..., set[str]]
) -> None:
    machine.sh(f"printf '[Service]\\nEnvironment=FALCON_AGENT__AGENT__STEP=0\\n' > {_ENABLED}/settings.conf")
    machine.run("systemctl", "daemon-reload")
    assert machine.try_run("systemctl", "start", "falcon-agent").returncode != 0
    assert machine.show("ActiveState") == "failed"
    assert machine.show("ExecMainStatus") == "2"
    machine.run("systemctl", "reset-failed", "falcon-agent")


def test_a_reload_is_not_a_restart(machine: Booted, agent: Callable[..., set[str]]) -> None:
    agent()
    pid = machine.show("MainPID")
    machine.run("systemctl", "reload", "falcon-agent")
    wait_until(lambda: "reloaded" in _since_start(machine), "it says so")
    assert machine.show("MainPID") == pid


def test_the_watchdog_restarts_an_agent_that_is_stuck(stuck: Booted) -> None:
    wait_until(lambda: stuck.show("NRestarts") == "1", "systemd missed it", 120.0)
    wait_until(lambda: stuck.show("ActiveState") == "active", "it runs again")
    assert "Watchdog timeout" in stuck.journal()


def _since_start(machine: Booted) -> str:
    """What the agent said since it was started the last time."""
    invocation = machine.show("InvocationID")
    return machine.run("journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "--no-pager", "--output=cat")


def _last(machine: Booted, metric: str) -> float:
    return float([item["value"] for item in machine.records() if item["metric"] == metric][-1])


def _series(item: dict[str, object]) -> tuple[object, object, object]:
    return item["timestamp"], item["metric"], item["tags"]


def _waiting(machine: Booted) -> set[tuple[object, object, object]]:
    """Every record that is on disk and was not accepted yet."""
    exported = machine.run("falcon-agent", "spool", "export").splitlines()
    return {_series(item) for line in exported for item in json.loads(line)}
