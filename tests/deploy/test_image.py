"""The container image on a real Docker engine, run as docs/kubernetes.md says."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.programs import receiver, until
from tests.deploy.image import REPOSITORY
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

pytestmark = pytest.mark.real

_GUIDE = (REPOSITORY / "docs/kubernetes.md").read_text()
UNPRIVILEGED, PRIVILEGED = re.findall(r"^    docker (run(?:.*\\\n)+.*)$", _GUIDE, re.MULTILINE)
"""The two commands of the guide."""


@pytest.fixture
def web(docker_engine: Engine) -> Iterator[str]:
    """A container that listens on a TCP port; its name."""
    name = f"{docker_engine.name}-web"
    with docker_engine.container(
        f"--name={name}", command=("nc", "-ll", "-p", "9000", "-e", "cat")
    ) as container:
        wait_until(lambda: ":2328 " in docker_engine.exec(container, "cat", "/proc/net/tcp6"), "it listens")
        yield name


@contextmanager
def running(engine: Engine, image: str, command: str, url: str, only: str) -> Iterator[str]:
    """The agent as a command of the guide runs it, but with a step of one second and for one container; its id."""
    places = {
        "falcon-agent:0.1.0": image,
        "http://transfer.example.com:6060/api/push": url,
        "/var/run/docker.sock:": f"{engine.socket}:",
    }
    for written, here in places.items():
        command = command.replace(written, here)
    run, *options = shlex.split(command.replace("\\\n", ""))
    chosen = {"AGENT__STEP": "1", "DISCOVERY__INCLUDE__NAME": only}
    more = [f"--env=FALCON_AGENT__{key}={value}" for key, value in chosen.items()]
    agent = engine.cli(run, *more, *options).strip()
    try:
        yield agent
    finally:
        engine.rm(agent)
        engine.cli("volume", "rm", "falcon-agent")


def test_it_finds_the_other_containers_and_pushes(agent_image: str, docker_engine: Engine, web: str) -> None:
    with (
        receiver(by=docker_engine.nsenter_argv()) as got,
        running(docker_engine, agent_image, PRIVILEGED, got.url, web) as agent,
    ):
        until(lambda: got.values("container.cpu.cores", name=web), "the rates of the second cycle")
        until(lambda: got.values("container.tcp.listen", name=web)[-1:] == [1], "its port")
        until(lambda: got.values("container.df.bytes.used", name=web, mount="/"), "its file system")
        until(lambda: got.values("container.net.if.in.bytes", name=web, iface="eth0"), "its traffic")
        docker_engine.cli("stop", "--time=30", agent)
        assert docker_engine.inspect(agent)["State"]["ExitCode"] == 0


def test_it_needs_no_privilege_for_most(agent_image: str, docker_engine: Engine, web: str) -> None:
    """As it comes: its own user, no capability; then containers are called by their ids."""
    short = docker_engine.inspect(web)["Id"][:12]
    with (
        receiver(by=docker_engine.nsenter_argv()) as got,
        running(docker_engine, agent_image, UNPRIVILEGED, got.url, short) as agent,
    ):
        wanted = {"container.mem.memused", "container.net.if.in.bytes", "container.tcp.inuse"}
        until(lambda: got.values("container.cpu.cores", name=short), "the rates of the second cycle")
        until(lambda: wanted <= {item["metric"] for item in got.items}, "what needs no privilege")
        status = docker_engine.exec(agent, "cat", "/proc/self/status")
        kept = docker_engine.exec(agent, "ls", "-ln", "/var/lib/falcon-agent")
    assert "Uid:\t65532\t65532\t65532\t65532" in status
    assert "CapEff:\t0000000000000000" in status
    assert re.search(r" 65532 +65532 .* spool\.db$", kept, re.MULTILINE)
    names = {item["metric"] for item in got.items}
    assert not {"container.tcp.listen", "container.df.bytes.used"} & names


def test_what_is_not_mounted_is_told(agent_image: str, docker_engine: Engine) -> None:
    box = ["run", "--rm", "--entrypoint=sh", agent_image, "-c", "falcon-agent collect --dry-run 2>&1 || true"]
    assert "cannot read /host/proc/self/mountinfo" in docker_engine.cli(*box)


def test_it_holds_the_program_and_nothing_else(agent_image: str, docker_engine: Engine) -> None:
    def inside(script: str) -> str:
        return docker_engine.cli(
            "run", "--rm", "--network=none", "--entrypoint=sh", agent_image, "-ec", script
        )

    installed = inside("ls /opt/falcon-agent/lib/python3*/site-packages").split()
    locked = (REPOSITORY / "requirements.lock").read_text()
    distributions = [name.split("-")[0].lower() for name in installed if name.endswith(".dist-info")]
    assert "requests" in distributions
    assert all(f"{name.replace('_', '-')}==" in locked for name in distributions)
    assert inside("find / -xdev -name secret -o -path /build; find /opt -name '*.whl'") == ""
    source, compiled = (inside(f"find /opt -name '*.{end}' | wc -l") for end in ("py", "pyc"))
    assert source == compiled
    for command in ("falcon-agent rules list --json", "falcon-agent metrics --json"):
        assert json.loads(inside(command))
