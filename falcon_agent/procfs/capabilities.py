"""The capabilities of a process, from /proc/PID/status."""

from __future__ import annotations

from falcon_agent.errors import ParseError

_BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}
"""Numbers from include/uapi/linux/capability.h, of those that anything here asks for."""


def effective_capabilities(status: bytes) -> frozenset[str]:
    """The names in the line `CapEff:` (proc(5)), of the capabilities that matter to this program.

    Raises:
        ParseError: there is no such line, or no hexadecimal number in it.
    """
    for line in status.splitlines():
        if line.startswith(b"CapEff:"):
            try:
                mask = int(line[7:], 16)
            except ValueError:
                raise ParseError("/proc/PID/status", f"CapEff is {line[7:40]!r}, not a number") from None
            return frozenset(name for name, bit in _BITS.items() if mask >> bit & 1)
    raise ParseError("/proc/PID/status", "no line CapEff")
