from __future__ import annotations

import pytest

from docs.generate.configuration import DOCUMENT, MARK, document, reference, sections
from falcon_agent.config.model import SettingsModel
from tests.docs.documents import read

TOML = read("config/agent.toml")


def test_the_reference_is_what_the_model_and_the_example_say() -> None:
    present = DOCUMENT.read_text()
    assert present == document(present, TOML), "run `make docs`"


def test_every_key_is_in_it_with_its_default() -> None:
    text = "\n".join(reference(TOML))
    for section, keys in SettingsModel().model_dump().items():
        assert f"## `[{section}]`" in text
        for key, default in keys.items():
            if not isinstance(default, dict) and key != "targets":
                assert f"- **`{key}`**: " in text


def test_limits_are_the_models() -> None:
    text = "\n".join(reference(TOML))
    assert "- **`step`**: whole number, 1 to 86,400; default `60`" in text
    assert "- **`timeout`**: number, above 0, at most 300; default `5.0`" in text
    assert "- **`headers`**: table of texts; for example `" in text
    assert '- **`level`**: one of `debug`, `info`, `warning`, `error`; default `"info"`' in text


def test_a_comment_belongs_to_the_keys_below_it() -> None:
    toml = "# above\n\n[a]\n# one\n#x = 1\n#y = 2\n# two\n#z = 3\n\n# of b\n[b]\n#x = 1\n"
    found = [(one.path, [(group.text, group.keys) for group in one.groups]) for one in sections(toml)]
    assert found == [
        ("a", [("one", [("x", "1"), ("y", "2")]), ("two", [("z", "3")])]),
        ("b", [("of b", [("x", "1")])]),
    ]


def test_other_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="step = 60"):
        list(sections("[agent]\nstep = 60\n"))
    with pytest.raises(ValueError, match="no line"):
        document("# Configuration\n", TOML)
    assert MARK in DOCUMENT.read_text()
