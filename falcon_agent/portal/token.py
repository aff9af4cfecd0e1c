"""The token that Open-Falcon's API wants with every request."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field

from falcon_agent.errors import ConfigError

MAX_TOKEN_BYTES = 4096

_REMEDY = "write name:sig into it, as POST /api/v1/user/login answers them"


@dataclass(frozen=True, slots=True)
class Token:
    """A user's session.

    Attributes:
        name: the user.
        sig: the secret; never shown.
        exposed: whether everybody on this host may read the file.
    """

    name: str
    sig: str = field(repr=False)
    exposed: bool = False

    @property
    def header(self) -> str:
        """The value of `Apitoken`."""
        return json.dumps({"name": self.name, "sig": self.sig})


def read_token(path: str) -> Token:
    """The token in a file: `name:sig`, or `{"name": ..., "sig": ...}`.

    Raises:
        ConfigError: the file cannot be read or holds something else; the message shows nothing of it.
    """
    try:
        with open(path, "rb") as file:
            exposed = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the token in {path}: {error.strerror}") from None
    try:
        text = content.decode().strip()
        name, sig = _from_json(text) if text.startswith("{") else _from_line(text)
    except ValueError:
        raise ConfigError(f"cannot use the token in {path}: {_REMEDY}") from None
    if len(content) > MAX_TOKEN_BYTES or not (name and sig and name.isprintable() and sig.isprintable()):
        raise ConfigError(f"cannot use the token in {path}: {_REMEDY}")
    return Token(name, sig, exposed)


def _from_line(text: str) -> tuple[str, str]:
    name, _, sig = text.partition(":")
    return name.strip(), sig.strip()


def _from_json(text: str) -> tuple[str, str]:
    found = json.loads(text)
    name, sig = found.get("name"), found.get("sig")
    return (name, sig) if isinstance(name, str) and isinstance(sig, str) else ("", "")
