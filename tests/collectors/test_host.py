from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.host import HostCollector
from falcon_agent.errors import ParseError
from tests.namespaces.lab import inside

if TYPE_CHECKING:
    from tests.real.engine import Engine

SOCKSTAT = b"sockets: used 33\nTCP: inuse 1 orphan 2 tw 9 alloc 30 mem 173\nUDP: inuse 0 mem 7\n"
LIMITS = {"tcp.orphan.max", "tcp.mem.limit", "tcp.mem.used.percent"}


def samples(proc: str = "/proc") -> dict[str, float]:
    collector = HostCollector(proc)
    collector.begin([])
    found = {}
    for metric, value, tags in collector.collect(None):
        assert (metric in collector.metrics, tags) == (True, ())
        found[metric.name.removeprefix("host.")] = value
    return found


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A host's /proc, in whose network namespace we are; links are this machine's."""
    for name, content in {
        "self/net/sockstat": SOCKSTAT,
        "thread-self/net/dev": b"",
        "sys/net/netfilter/nf_conntrack_count": b"61\n",
        "sys/net/netfilter/nf_conntrack_max": b"1000\n",
        "sys/net/ipv4/tcp_mem": b"100\t200\t692\n",
        "sys/net/ipv4/tcp_max_orphans": b"4096\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "1/net").mkdir(parents=True)
    (tmp_path / "1/net/dev").hardlink_to(tmp_path / "thread-self/net/dev")
    return tmp_path


def test_a_host(proc: Path) -> None:
    found = samples(str(proc))
    assert isinstance(found.pop("veth.count"), int)
    assert found == {
        "conntrack.count": 61,
        "conntrack.max": 1000,
        "conntrack.used.percent": 6.1,
        "tcp.orphan": 2,
        "tcp.orphan.max": 4096,
        "tcp.alloc": 30,
        "tcp.mem.pages": 173,
        "tcp.mem.limit": 692,
        "tcp.mem.used.percent": 25.0,
    }


def test_in_another_network_namespace_only_what_holds_everywhere(proc: Path) -> None:
    (proc / "1/net/dev").unlink()
    (proc / "1/net/dev").write_bytes(b"")
    assert not {name for name in samples(str(proc)) if name.startswith(("conntrack", "veth"))}
    (proc / "1/net/dev").unlink()  # other users' processes may be hidden
    found = samples(str(proc))
    assert not {name for name in found if name.startswith(("conntrack", "veth"))}
    assert found["tcp.orphan"] == 2


def test_without_connection_tracking(proc: Path) -> None:
    (proc / "sys/net/netfilter/nf_conntrack_max").unlink()
    found = samples(str(proc))
    assert not {name for name in found if name.startswith("conntrack")}
    assert "veth.count" in found


def test_no_limit_is_no_percentage(proc: Path) -> None:
    (proc / "sys/net/netfilter/nf_conntrack_max").write_bytes(b"0\n")
    found = samples(str(proc))
    assert found["conntrack.max"] == 0
    assert "conntrack.used.percent" not in found


def test_garbage(proc: Path) -> None:
    (proc / "sys/net/ipv4/tcp_mem").write_bytes(b"1 2\n")
    with pytest.raises(ParseError, match="tcp_mem"):
        samples(str(proc))


IN_A_HOST_OF_ITS_OWN = """
import json, socket, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.collectors.test_host import samples

def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

run("ip", "link", "set", "lo", "up")
for number in range(3):
    run("ip", "link", "add", f"left{number}", "type", "veth", "peer", "name", f"right{number}")
run("ip", "link", "add", "veth-by-name", "type", "bridge")
run("iptables", "-w", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(5)]
found = samples()
table = Path("/proc/net/stat/nf_conntrack").read_text().splitlines()[1].split()[0]
links = run("ip", "-json", "-details", "link", "show", "type", "veth")
print(json.dumps([found, int(table, 16), len(json.loads(links))]))
"""


@pytest.mark.real
def test_connections_and_veths_of_a_host_of_its_own() -> None:
    """A pid namespace whose first process is in a network namespace of its own, as a host's is."""
    argv = ["unshare", "--net", "--pid", "--fork", "--mount-proc", sys.executable, "-c", IN_A_HOST_OF_ITS_OWN]
    root = str(Path(__file__).parents[2])
    done = subprocess.run([*argv, root], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, tracked, links = json.loads(done.stdout)
    assert found["conntrack.count"] == tracked >= 5
    assert found["conntrack.used.percent"] == round(tracked / found["conntrack.max"] * 100, 3) > 0
    assert found["veth.count"] == links == 6
    # The kernel has these in the first network namespace only.
    assert not LIMITS & found.keys()


@pytest.mark.real
def test_this_host() -> None:
    found = samples()
    for name, file in {
        "conntrack.max": "netfilter/nf_conntrack_max",
        "tcp.orphan.max": "ipv4/tcp_max_orphans",
    }.items():
        assert found[name] == int(Path("/proc/sys/net", file).read_text())
    assert found["tcp.mem.limit"] == int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[2])
    assert found["veth.count"] >= 0
    assert found["tcp.alloc"] >= 0


@pytest.mark.real
def test_in_an_engines_network_namespace(docker_engine: Engine) -> None:
    found = inside(str(docker_engine.netns), samples)
    assert not {name for name in found if name.startswith(("conntrack", "veth"))}
    assert {"tcp.orphan", "tcp.alloc", "tcp.mem.pages"} <= found.keys()
