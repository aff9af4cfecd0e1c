r"""/proc/PID/mountinfo: the mounts that a process can reach (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from falcon_agent.errors import ParseError

_SOURCE = "/proc/PID/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_OPTIONAL = 3


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. Texts that are not UTF-8 hold surrogates: `os.fsencode` gives the kernel's bytes back.

    Attributes:
        mount_id: names the mount as long as it exists; may be used again afterwards.
        device: `major:minor` of the file system; what is mounted twice has the same.
        root: the directory (or file) of the file system that is mounted.
        mount_point: where, seen from the root directory of the process; never through a symbolic link. Of a
            directory that was removed it ends with `//deleted`.
        fstype: type of the file system, with its subtype where it has one, e.g. `fuse.sshfs`.
        source: what was mounted, in words that mean something to the file system only.
        super_options: of the file system, e.g. `rw` or `upperdir=/path`; escaped as the kernel wrote them, because
            an escaped comma is no separator.
    """

    mount_id: int
    device: str
    root: str
    mount_point: str
    fstype: str
    source: str
    super_options: str

    def super_option(self, name: str) -> str | None:
        """The value of `name=value` among the options of the file system; None if there is none."""
        for option in self.super_options.split(","):
            key, equals, value = option.partition("=")
            if key == name and equals:
                return _text(value)
        return None


def parse_mountinfo(content: bytes) -> list[Mount]:
    """The mounts in the kernel's order: of two on one mount point the later lies on top.

    A line is `id parent major:minor root mountpoint options [optional ...] - type source superoptions`.

    Raises:
        ParseError: a line has another form.
    """
    # At once: one by one the fields take three times as long.
    return [_mount(line) for line in os.fsdecode(content).split("\n") if line]


def _mount(line: str) -> Mount:
    head, dash, tail = line.partition(" - ")
    before = head.split(" ")
    after = tail.split(" ", _FIELDS_AFTER_OPTIONAL - 1)
    if not dash or len(before) < _FIELDS_BEFORE_OPTIONAL or len(after) < _FIELDS_AFTER_OPTIONAL:
        raise ParseError(_SOURCE, f"{line[:80]!r} lacks fields")
    if not before[0].isdecimal():
        raise ParseError(_SOURCE, f"{line[:80]!r} does not begin with a mount ID")
    return Mount(
        mount_id=int(before[0]),
        device=before[2],
        root=_text(before[3]),
        mount_point=_text(before[4]),
        fstype=_text(after[0]),
        source=_text(after[1]),
        super_options=after[2],
    )


def _text(field: str) -> str:
    """The kernel writes space, tab, newline, backslash and `#` as three octal digits."""
    if "\\" not in field:
        return field
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), os.fsencode(field)))
