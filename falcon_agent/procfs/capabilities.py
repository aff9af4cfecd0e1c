"""What a process may do, from /proc/PID/status: its user, groups and capabilities (credentials(7), capabilities(7))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SOURCE = "/proc/PID/status"

_BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}
"""Numbers from include/uapi/linux/capability.h, of those that anything here asks for."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a process is to the kernel when it asks for something.

    Attributes:
        uid: effective user id. gid: effective group id.
        groups: supplementary group ids.
        mask: effective capabilities, a bit each.
    """

    uid: int
    gid: int
    groups: frozenset[int]
    mask: int

    @property
    def capabilities(self) -> frozenset[str]:
        """The names of the capabilities that matter to this program."""
        return frozenset(name for name, bit in _BITS.items() if self.mask >> bit & 1)


def capability_mask(names: Iterable[str]) -> int:
    """The bits of these capabilities, in any case of letters; names that do not matter here are left out."""
    return sum(1 << _BITS[name] for name in {name.upper() for name in names} & _BITS.keys())


def parse_credentials(status: bytes) -> Credentials:
    """The effective credentials in a status file.

    Raises:
        ParseError: a line is missing, or has something else than numbers in it.
    """
    fields = dict(line.split(b":", 1) for line in status.split(b"\n") if b":" in line)
    try:
        # Uid and Gid: real, effective, saved, of the file system.
        uid, gid = int(fields[b"Uid"].split()[1]), int(fields[b"Gid"].split()[1])
        groups = frozenset(map(int, fields[b"Groups"].split()))
        return Credentials(uid, gid, groups, int(fields[b"CapEff"], 16))
    except KeyError as error:
        raise ParseError(_SOURCE, f"no line {error.args[0].decode()}") from None
    except (ValueError, IndexError):
        raise ParseError(_SOURCE, "Uid, Gid, Groups or CapEff is not what it should be") from None
