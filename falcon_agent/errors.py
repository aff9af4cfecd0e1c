"""Every error this program raises on purpose.

A message begins with "cannot ..." and says what could not be done, where, and what the reader can do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

E = TypeVar("E", bound=BaseException)


class FalconAgentError(Exception):
    """Base of all errors that are expected; a command prints it without a traceback."""


class KernelFileError(FalconAgentError):
    """A file of /proc, /sys or a netlink answer could not be had; `path` says which."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason


class GoneError(KernelFileError):
    """The process, cgroup or namespace behind the file went away (ENOENT, ENODEV, ESRCH): not a fault."""


class DeniedError(KernelFileError):
    """The kernel refused (EACCES, EPERM): a privilege is missing."""


class ParseError(FalconAgentError):
    """A kernel file does not have the documented form."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"cannot parse {source}: {reason}")
        self.source = source
        self.reason = reason


class ConfigError(FalconAgentError):
    """The configuration cannot be used; the message lists file, key, what was found and what is allowed."""


class RuntimeUnavailableError(FalconAgentError):
    """A container runtime did not answer, or not sensibly: absent, refusing, hanging or speaking garbage."""


class RuntimeAbsentError(RuntimeUnavailableError):
    """There is no such container runtime, as far as can be told: no socket, or one that does not speak for it."""


class RuntimeDeniedError(RuntimeUnavailableError):
    """The agent may not talk to a container runtime: a matter of how it was set up, which will not pass."""


class TransferError(FalconAgentError):
    """A transfer did not take a push: unreachable, hanging, or answering something else than the contract says."""


def as_value(error: E) -> E:
    """An error that is to be kept or handed on: itself, without the frames that it came through.

    They hold all their variables, and with these, often, whoever keeps the error: a ring, which only the garbage
    collector can undo, and it looks seldom (`allocator`). Who raises a kept error deletes its own name of it for the
    same reason. What nobody expected keeps its frames, which tell where the bug is.
    """
    if isinstance(error, FalconAgentError | OSError):
        error.__traceback__ = error.__context__ = None
    return error


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """`error` and every exception that it wraps, in whatever way the libraries do it; each once."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop(0)
        if any(cause is other for other in seen):
            continue
        seen.append(cause)
        yield cause
        wrapped = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        waiting += [inner for inner in wrapped if isinstance(inner, BaseException)]
