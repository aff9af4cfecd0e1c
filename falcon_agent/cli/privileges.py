"""What is missing for want of a privilege, and the drop-in of the unit that grants it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from falcon_agent.cli.finding import Finding
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.procfs.capabilities import parse_credentials
from falcon_agent.procfs.kmsg import KernelLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.collectors.base import Collector

SHIPPED = "/usr/share/falcon-agent/falcon-agent.service.d"
ENABLED = "/etc/systemd/system/falcon-agent.service.d"
_RESTART = "systemctl daemon-reload && systemctl restart falcon-agent"

DROP_INS = {
    "sockets": "sockets.conf",
    "filesystem": "filesystems.conf",
    "processes": "processes.conf",
    "layersize": "processes.conf",
    "network": "links.conf",
}
"""Which one gives a collector what it needs; docs/decisions/007-privileges.md says what each of them allows."""

RUNTIME_DROP_INS = {"docker": "docker.conf", "podman": "podman.conf", "cri": "cri.conf"}
"""Which one lets the service ask a runtime."""

LINK_EVENTS = "CAP_NET_BROADCAST"


def enabling(drop_in: str) -> str:
    """The commands, for root, after which a drop-in is in force."""
    if os.path.lexists(os.path.join(ENABLED, drop_in)):
        return f"{drop_in} is there and not in force yet: {_RESTART}"
    return f"{drop_in} grants it: ln -s {SHIPPED}/{drop_in} {ENABLED}/ && {_RESTART}"


def privileges(collectors: Sequence[Collector], *, as_service: bool) -> Iterator[Finding]:
    """The capabilities that enabled metrics need and this process does not have.

    Args:
        collectors: those that are enabled.
        as_service: whether to advise for the unit.
    """
    held = parse_credentials(read_to_eof("/proc/self/status")).capabilities
    missing: dict[tuple[str, str], list[str]] = {}
    partly: dict[tuple[str, str], list[str]] = {}
    for collector in collectors:
        drop_in = DROP_INS.get(collector.name, "")
        for metric in collector.metrics:
            # What follows the first clause is needed for some of its values only.
            needed, _, more = metric.needs.partition(";")
            if lacking := _lacking(needed, held):
                missing.setdefault((lacking, drop_in), []).append(metric.name)
            elif _lacking(more, held):
                partly.setdefault((more.strip(), drop_in), []).append(metric.name)
    for (capabilities, drop_in), metrics in missing.items():
        text = f"{capabilities} missing, so these will be absent: {', '.join(metrics)}"
        yield Finding("warn", "privileges", f"{text}; {_advice(drop_in, as_service=as_service)}")
    for (needs, drop_in), metrics in partly.items():
        text = f"{', '.join(metrics)} would need {needs}"
        yield Finding("note", "privileges", f"{text}; {_advice(drop_in, as_service=as_service)}")
    if LINK_EVENTS not in held and any(collector.name == "network" for collector in collectors):
        text = (
            f"without {LINK_EVENTS} a change of interfaces shows after 1 to 10 minutes, not in the next cycle"
        )
        yield Finding("note", "privileges", f"{text}; {_advice('links.conf', as_service=as_service)}")
    if any(collector.name == "life" for collector in collectors):
        try:
            KernelLog().close()
        except FalconAgentError as error:
            text = f"{error}: of kills for want of memory that end a container only Docker tells then"
            yield Finding("note", "privileges", f"{text}; {_advice('kernellog.conf', as_service=as_service)}")
    if not missing:
        yield Finding("ok", "privileges", "every enabled metric has what it needs")


def runtime_advice(name: str, sockets: Sequence[str]) -> str:
    """What to add to the error of a runtime if its socket is closed to this process; else nothing."""
    drop_in = RUNTIME_DROP_INS.get(name)
    if drop_in is None or not any(map(_is_closed, sockets)):
        return ""
    return f"; whoever may ask it is as good as root; {enabling(drop_in)}"


def _advice(drop_in: str, *, as_service: bool) -> str:
    return enabling(drop_in) if as_service and drop_in else "run as root or grant it"


def _lacking(needs: str, held: frozenset[str]) -> str:
    """The capabilities that a metric needs on this kernel and that are not held, in words."""
    until = re.search(r"before Linux (\d+)\.(\d+)", needs)
    if until is not None and _kernel() >= (int(until[1]), int(until[2])):
        return ""
    return " and ".join(word for word in re.findall(r"CAP_[A-Z_]+", needs) if word not in held)


def _kernel() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def _is_closed(path: str) -> bool:
    """Whether something is there that this process may not connect to (unix(7): that takes to write to it)."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK, effective_ids=True)
