"""The agent as a service of this host: who it is there, as far as `check` wants to speak for it."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from contextlib import suppress
from typing import NamedTuple

from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.procfs.capabilities import Credentials, capability_mask, parse_credentials
from falcon_agent.transfer.spoollock import holder

UNIT = "falcon-agent.service"

_PROPERTIES = ("LoadState", "MainPID", "User", "Group", "SupplementaryGroups", "AmbientCapabilities")
_SECONDS = 5.0


class Service(NamedTuple):
    """The agent that runs, or that would.

    Attributes:
        title: what to call it.
        credentials: what it may do.
    """

    title: str
    credentials: Credentials


def show_unit() -> dict[str, str] | None:
    """What systemd says of the unit (`systemctl show`); None where there is no such unit, or no systemd."""
    # Asked without its pager and in the language that is parsed here.
    given = os.environ | {"LC_ALL": "C", "SYSTEMD_PAGER": ""}
    command = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", UNIT]
    try:
        done = subprocess.run(
            command, env=given, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return found if found.get("LoadState") == "loaded" else None


def find_service(unit: dict[str, str] | None, spool: str) -> Service | None:
    """The agent that the unit runs or would run; without a unit, the one that uses the spool directory.

    Returns:
        None if there is neither, or nothing can be learnt of it.
    """
    if unit is None:
        _, pid = holder(spool)
        return _running("the agent that runs", pid) if pid is not None and _uses(pid, spool) else None
    pid = int(unit["MainPID"]) if unit.get("MainPID", "").isdigit() else 0
    return _running(UNIT, pid) if pid else _stopped(unit)


def _uses(pid: int, directory: str) -> bool:
    """Whether a process has a file of the directory open.

    The agent wrote its pid down there: one in a container wrote that of its own PID namespace, and one that was
    taken over could write any.
    """
    with suppress(OSError):
        files = {(file.stat().st_dev, file.inode()) for file in os.scandir(directory)}
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                if (status.st_dev, status.st_ino) in files:
                    return True
    return False


def _running(title: str, pid: int) -> Service | None:
    try:
        credentials = parse_credentials(read_to_eof(f"/proc/{pid}/status"))
    except FalconAgentError:
        return None
    return Service(f"{title} (pid {pid}, user {_user(credentials.uid)})", credentials)


def _stopped(unit: dict[str, str]) -> Service | None:
    name = unit.get("User") or "root"
    if name == "root":
        return None
    # A user or group that is not there yet, or one given as a number, ends this: then check speaks for root.
    with suppress(KeyError):
        user = pwd.getpwnam(name)
        gid = grp.getgrnam(unit["Group"]).gr_gid if unit.get("Group") else user.pw_gid
        more = {grp.getgrnam(group).gr_gid for group in unit.get("SupplementaryGroups", "").split()}
        groups = frozenset(os.getgrouplist(name, gid)) | more
        mask = capability_mask(unit.get("AmbientCapabilities", "").split())
        return Service(f"{UNIT} (not running, user {name})", Credentials(user.pw_uid, gid, groups, mask))
    return None


def _user(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
