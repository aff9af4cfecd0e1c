"""Going on with the credentials of another process (credentials(7), capabilities(7))."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    """32 of the 64 capabilities."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def take_on(uid: int, gid: int, groups: Iterable[int], capabilities: int) -> None:
    """Become this user, in these groups, with no capability but these; there is no way back.

    To be called by root before any other thread runs: capabilities belong to a thread, and new ones inherit them.

    Args:
        uid: of the user.
        gid: of the main group.
        groups: the supplementary ones.
        capabilities: a bit each; the caller must have all of them.

    Raises:
        FalconAgentError: the kernel refuses; the process may have become another one in part, and should end.
    """
    try:
        if _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0:
            raise _error()
        os.setgroups(sorted(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        halves = (_Half * 2)(
            *(_Half(half, half, 0) for half in (capabilities & 0xFFFFFFFF, capabilities >> 32))
        )
        if _libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), halves) != 0:
            raise _error()
    except OSError as error:
        raise FalconAgentError(f"cannot act as user {uid}: {error.strerror}") from None


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
