"""Many containers out of one: the files of a real one, copied into a tree that `--proc` and `--sys` can name.

What a file costs there is tmpfs's price, not the kernel's: a tree is compared with itself only.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.container import CgroupPaths

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.container import Container

_FIRST_PID = 100_000_000
"""Above any pid that the kernel gives out, so that no copy is taken for a process of this machine."""
_NETNS = 1 << 40


class Captured(NamedTuple):
    """A container and what was read of it.

    Attributes:
        container: as discovery knows it.
        files: contents by path, of its own and of those above it.
    """

    container: Container
    files: dict[str, bytes]


def capture(container: Container, paths: Iterable[str]) -> Captured:
    """Read once what the agent reads of a container, in its first cycles."""
    always = [f"/proc/{container.pid}/{name}" for name in ("stat", "status", "cgroup")]
    files = {}
    for path in dict.fromkeys([*paths, *always]):
        # What the agent reads of itself is found where /proc/self is.
        kept = re.sub(rf"^/proc/{os.getpid()}/", "/proc/self/", path)
        files[kept] = Path(path).read_bytes()
    files["/proc/self/mountinfo"] = Path("/proc/self/mountinfo").read_bytes()
    files["/proc/self/cgroup"] = Path("/proc/self/cgroup").read_bytes()
    # Numbered by an outer PID namespace: the pids of the copies are not to be looked up in this one.
    files["/proc/self/status"] = b"Name:\tagent\nNSpid:\t1\t1\n"
    return Captured(container, files)


def build(directory: Path, captured: Captured, count: int) -> list[Container]:
    """Write the tree with so many copies; returns them as discovery would."""
    own = f"/proc/{captured.container.pid}/"
    shared = {
        path: content
        for path, content in captured.files.items()
        if not path.startswith(own) and captured.container.id not in path
    }
    for path, content in shared.items():
        _write(directory, path, content)
    for mount in {path.split("/")[4] for path in captured.files if path.startswith("/sys/fs/cgroup/")}:
        (directory / "sys/fs/cgroup" / mount).mkdir(parents=True, exist_ok=True)
    return [_copy(directory, captured, index) for index in range(count)]


def _copy(directory: Path, captured: Captured, index: int) -> Container:
    container = captured.container
    own, pid = f"/proc/{container.pid}/", _FIRST_PID + index
    name = f"{index:064x}"
    for path, content in captured.files.items():
        if path.startswith(own):
            _write(directory, f"/proc/{pid}/{path.removeprefix(own)}", content)
        elif container.id in path:
            _write(directory, path.replace(container.id, name), content)
    namespaces = directory / f"proc/{pid}/ns"
    namespaces.mkdir(exist_ok=True)
    (namespaces / "net").symlink_to("/proc/self/ns/net")
    v1 = {controller: path.replace(container.id, name) for controller, path in container.cgroup.v1.items()}
    v2 = container.cgroup.v2 and container.cgroup.v2.replace(container.id, name)
    return replace(
        container,
        id=name,
        name=f"copy-{index}",
        pid=pid,
        cgroup=CgroupPaths(v1, v2),
        netns=_NETNS + index,
        network_of=name,
    )


def _write(directory: Path, path: str, content: bytes) -> None:
    target = directory / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
