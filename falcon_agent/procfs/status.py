"""/proc/PID/status: who a process is (proc_pid_status(5))."""

from __future__ import annotations

from dataclasses import dataclass

from falcon_agent.errors import ParseError

_SOURCE = "/proc/PID/status"


@dataclass(frozen=True, slots=True)
class Status:
    """What discovery needs of a process's status.

    Attributes:
        name: command name, at most 15 bytes, not decoded; the process chooses it, the kernel escapes
        newlines. ppid: pid of its parent as the reader numbers it; 0 where the parent is outside of what the
        reader
            sees.
        nspid: its pid in each nested PID namespace, from the reader's own down to its own; empty if the
            kernel does not say. Two or more numbers: it lives in a nested one; the last is 1: it is its init.
    """

    name: bytes
    ppid: int
    nspid: tuple[int, ...]

    @property
    def is_nested_init(self) -> bool:
        """Whether it is the first process of a PID namespace below the reader's."""
        return len(self.nspid) > 1 and self.nspid[-1] == 1


def parse_status(content: bytes) -> Status:
    """The status of a process, from its /proc/PID/status.

    Raises:
        ParseError: `Name` or `PPid` is missing, a number is none, or the text was cut short.
    """
    if not content.endswith(b"\n"):
        raise ParseError(_SOURCE, "the last line is cut short")
    # Three of some sixty lines: to take all of them apart costs eight times as much.
    name, ppid, nspid = (_field(content, key) for key in (b"Name", b"PPid", b"NSpid"))
    if name is None or ppid is None:
        raise ParseError(_SOURCE, "no line Name" if name is None else "no line PPid")
    try:
        return Status(name, int(ppid), tuple(map(int, (nspid or b"").split())))
    except ValueError:
        raise ParseError(_SOURCE, "PPid or NSpid is not a number") from None


def _field(content: bytes, key: bytes) -> bytes | None:
    """What stands on the line of a key, or None if there is no such line."""
    if not content.startswith(start := key + b":\t"):
        at = content.find(start := b"\n" + start)
        if at < 0:
            return None
        content = content[at:]
    return content[len(start) : content.index(b"\n", len(start))]
