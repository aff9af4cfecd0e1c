"""Network namespaces: the host's ends of the containers' veth pairs are in the engine's."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_INSIDE = "FALCON_BENCH_INSIDE"


def in_namespace(netns: str, *argv: str) -> list[str]:
    """The command, to be run in a network namespace, or here if `netns` is empty."""
    return [*(["nsenter", f"--net={netns}"] if netns else []), *argv]


def go_inside(netns: str, module: str) -> None:
    """Start this very program anew in a network namespace, unless it is there already or none is given."""
    if netns and _INSIDE not in os.environ:
        command = in_namespace(netns, sys.executable, "-m", module, *sys.argv[1:])
        os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})  # noqa: S606  no shell on purpose


def count_tcp(pid: int) -> int:
    """TCP sockets of both IP versions in the network namespace of a process, but those in TIME_WAIT."""
    network = Path(f"/proc/{pid}/net")
    text = (network / "sockstat").read_text() + (network / "sockstat6").read_text()
    return sum(int(number) for number in re.findall(r"^TCP6?: inuse (\d+)", text, re.MULTILINE))
