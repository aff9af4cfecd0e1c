from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import ConfigError
from falcon_agent.portal.token import MAX_TOKEN_BYTES, Token, read_token

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "content", ["ann:SECRET", " ann : SECRET \n", '{"name": "ann", "sig": "SECRET", "admin": true}\n']
)
def test_both_forms(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    token = read_token(str(path))
    assert (token.name, token.sig) == ("ann", "SECRET")
    assert json.loads(token.header) == {"name": "ann", "sig": "SECRET"}


def test_the_secret_is_not_shown() -> None:
    assert "SECRET" not in repr(Token("ann", "SECRET"))


def test_a_name_in_any_script_makes_a_header() -> None:
    token = Token("用户", "SECRET")
    assert token.header.isascii()
    assert json.loads(token.header)["name"] == "用户"


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_who_may_read_it(tmp_path: Path, mode: int, *, exposed: bool) -> None:
    path = tmp_path / "token"
    path.write_text("ann:SECRET")
    path.chmod(mode)
    assert read_token(str(path)).exposed is exposed


@pytest.mark.parametrize(
    "content",
    [
        b"", b"SECRET", b":SECRET", b"ann:", b"{", b'{"name": "SECRET"}', b'{"name": 3, "sig": "SECRET"}', b"\xff",
        b"ann:SEC\nRET", b"ann:" + b"x" * MAX_TOKEN_BYTES,
    ],
)  # fmt: skip
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=f"cannot use the token in {path}: write name:sig into it"
    ) as caught:
        read_token(str(path))
    assert "SEC" not in str(caught.value).replace(str(path), "")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the token in .*: No such file or directory"):
        read_token(str(tmp_path / "absent"))
