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
    fields = dict(line.split(b":\t", 1) for line in content.split(b"\n") if b":\t" in line)
    try:
        return Status(
            fields[b"Name"], int(fields[b"PPid"]), tuple(map(int, fields.get(b"NSpid", b"").split()))
        )
    except KeyError as error:
        raise ParseError(_SOURCE, f"no line {error.args[0].decode()}") from None
    except ValueError:
        raise ParseError(_SOURCE, "PPid or NSpid is not a number") from None
