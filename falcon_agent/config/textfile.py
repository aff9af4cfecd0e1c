"""Reading the small text files that an administrator writes."""

from __future__ import annotations

import os
import stat

from falcon_agent.errors import ConfigError


def read_text(path: str, limit: int, what: str) -> str:
    """The text of a regular file.

    Args:
        path: the file.
        limit: bytes that it may have.
        what: it is, for the message.

    Raises:
        ConfigError: it cannot be read, is too large, or is no UTF-8.
    """
    try:
        # A FIFO would block for ever without O_NONBLOCK.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"cannot read {what} {path}: not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"cannot read {what} {path!r}: no file can have this name") from None
    if len(content) > limit:
        raise ConfigError(f"cannot read {what} {path}: larger than {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {what} {path}: not UTF-8 text (byte {error.start})") from None
