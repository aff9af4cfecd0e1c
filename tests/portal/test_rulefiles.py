from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from falcon_agent.errors import ConfigError
from falcon_agent.portal.bodies import note_of
from falcon_agent.portal.rulefiles import MAX_FILE_BYTES, read_rules
from falcon_agent.portal.rules import NoData, Rule, number

RULES = Path(__file__).parent.parent.parent / "config" / "rules"

STRATEGY = """
[[strategy]]
name = "busy"
metric = "container.cpu.busy"
func = "all(#3)"
op = ">="
threshold = 90
priority = 2
note = "busy"
why = "because"
action = "look"
"""
EXPRESSION = STRATEGY.replace("strategy", "expression").replace('"busy"\nmetric', '"each"\nmetric')
NODATA = """
[[nodata]]
name = "silent"
metric = "agent.alive"
mock = -1
why = "because"
"""


def write(directory: Path, text: str, name: str = "a.toml") -> str:
    (directory / name).write_text(text)
    return str(directory)


def complaints(directory: str, **given: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_rules(directory, **given)
    first, *lines = str(caught.value).splitlines()
    assert first == f"cannot use the rules in {directory}:"
    return [line.strip().removeprefix(f"{directory}/") for line in lines]


def test_defaults_and_every_key(tmp_path: Path) -> None:
    write(
        tmp_path,
        EXPRESSION + 'tags = { name = "web", idc = "bj" }\nmax_step = 1\n' + NODATA,
        "b.toml",
    )
    write(
        tmp_path,
        '[template]\nname = "mine"\nhost_group = "all"\nteams = ["ops", "dev"]\n'
        + STRATEGY
        + 'run_begin = "08:00"\nrun_end = "24:00"\n',
    )
    write(tmp_path, "garbage", "README")
    found = read_rules(str(tmp_path))
    assert (found.template, found.host_group, found.teams) == ("mine", "all", ("ops", "dev"))
    strategy, expression = found.rules
    same: dict[str, Any] = {
        "metric": "container.cpu.busy", "func": "all(#3)", "op": ">=", "threshold": 90, "priority": 2,
        "note": "busy", "why": "because", "action": "look",
    }  # fmt: skip
    assert strategy == Rule(
        **same, kind="strategy", name="busy", tags=(), max_step=3, run_begin="08:00", run_end="24:00"
    )
    assert expression == Rule(
        **same, kind="expression", name="each", tags=(("idc", "bj"), ("name", "web")), max_step=1
    )
    assert found.nodata == (NoData("silent", "agent.alive", (), "GAUGE", 60, -1, "because"),)
    assert strategy.condition == "all(#3) >= 90"


def test_the_command_line_wins(tmp_path: Path) -> None:
    write(tmp_path, '[template]\nname = "mine"\nteams = ["ops"]\n' + STRATEGY)
    found = read_rules(str(tmp_path), "other", "group", ["dev"])
    assert (found.template, found.host_group, found.teams) == ("other", "group", ("dev",))
    assert read_rules(str(tmp_path)).host_group == "docker-hosts"
    assert note_of(found, found.rules[0]) == "other/busy: busy"
    (line,) = complaints(str(tmp_path), template="a/b")
    assert line.startswith('command line: name: found "a/b", allowed: ')


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("all(#3)", "all(3)"), 'func: found "all(3)", allowed: all max min sum avg diff pdiff stddev with'),
        (("all(#3)", "all(#11)"), 'func: found "all(#11)", allowed: '),
        (("all(#3)", "kdiff(#3,1)"), "func: found "),
        (('">="', '"=>"'), 'op: found "=>", allowed: = == != < <= > >='),
        (("threshold = 90", 'threshold = "90"'), 'threshold: found "90", allowed: a number'),
        (("threshold = 90", "threshold = true"), "threshold: found true, allowed: a number"),
        (("threshold = 90", "threshold = nan"), "threshold: found NaN, allowed: a number"),
        (("threshold = 90", "threshold = 1e20"), "threshold: found 1e+20, allowed: a number"),
        (("threshold = 90", "threshold = 1e-9"), "threshold: found 1e-09, allowed: a number"),
        (("threshold = 90\n", ""), "threshold: missing, allowed: a number"),
        (("priority = 2", "priority = 7"), "priority: found 7, allowed: a whole number from 0 to 6"),
        (("priority = 2", "priority = 2.0"), "priority: found 2.0, allowed: "),
        (('note = "busy"', 'note = "a\\nb"'), 'note: found "a\\nb", allowed: one line'),
        (('note = "busy"', 'note = "\U0001f525"'), "note: found "),
        (('why = "because"', 'why = " "'), 'why: found " ", allowed: a text that is not empty'),
        (('action = "look"', ""), "action: missing, allowed: a text that is not empty"),
        (("container.cpu.busy", "container cpu"), 'metric: found "container cpu", allowed: a metric name'),
        (("container.cpu.busy", "m" * 129), "metric: found "),
        (('why = "because"', 'tresh = 1\nwhy = "because"'), '"tresh": unknown key; did you mean threshold? '),
        (('why = "because"', 'max_step = 0\nwhy = "because"'), "max_step: found 0, allowed: "),
        (
            ('why = "because"', 'tags = "name=web"\nwhy = "because"'),
            'tags: found "name=web", allowed: a table',
        ),
        (('why = "because"', 'tags = { name = "a b" }\nwhy = "because"'), "tags: found "),
        (
            ('why = "because"', 'run_begin = "8:00"\nwhy = "because"'),
            'run_begin: found "8:00", allowed: "HH:MM"',
        ),
    ],
)
def test_what_open_falcon_would_not_take(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    assert change[0] in STRATEGY
    (line,) = complaints(write(tmp_path, STRATEGY.replace(*change)))
    assert line.startswith(f"a.toml: strategy busy: {complaint}")


def test_names(tmp_path: Path) -> None:
    lines = complaints(
        write(
            tmp_path,
            STRATEGY.replace('"busy"\nmetric', '"Busy"\nmetric') + STRATEGY.replace('name = "busy"\n', ""),
        )
    )
    assert [line.split(", allowed")[0] for line in lines] == [
        'a.toml: strategy Busy: name: found "Busy"',
        "a.toml: strategy without a name: name: missing",
    ]
    write(tmp_path, STRATEGY)
    write(tmp_path, EXPRESSION.replace('"each"', '"busy"') + 'tags = { a = "b" }\n' + NODATA * 2, "b.toml")
    assert complaints(str(tmp_path)) == [
        f"b.toml: rule busy: is in {tmp_path}/a.toml already; names are given once",
        f"b.toml: nodata silent: is in {tmp_path}/b.toml already; names are given once",
    ]


def test_an_expression_is_found_by_a_tag(tmp_path: Path) -> None:
    lines = complaints(write(tmp_path, EXPRESSION))
    assert lines == [
        "a.toml: expression each: tags: found none, allowed: one at least; judge finds expressions by them"
    ]
    low = EXPRESSION.replace("priority = 2", "priority = 0") + 'tags = { a = "b" }\n'
    assert complaints(write(tmp_path, low)) == [
        "a.toml: expression each: priority: found 0, allowed: a whole number from 1 to 6"
    ]


def test_the_note_fits_with_its_mark(tmp_path: Path) -> None:
    fits = 128 - len("falcon-agent/busy: ")
    path = write(tmp_path, STRATEGY.replace('note = "busy"', f'note = "{"x" * fits}"'))
    found = read_rules(path)
    assert len(note_of(found, found.rules[0])) == 128
    assert complaints(path, template="falcon-agent2") == [
        f"a.toml: strategy busy: note: found {fits} characters, allowed: {fits - 1}"
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("strategy = 3", "a.toml: strategy: found 3, allowed: [[strategy]]"),
        ("nodata = [3]", "a.toml: nodata: found 3, allowed: [[nodata]]"),
        ("template = 3", "a.toml: template: found 3, allowed: a section [template]"),
        (
            "[strategie]",
            'a.toml: "strategie": unknown key; did you mean strategy? allowed here: template, strategy',
        ),
        ('[template]\nteams = "ops"', 'a.toml: template: teams: found "ops", allowed: a list of team names'),
        ("[template]\nname = ''", 'a.toml: template: name: found "", allowed: 1 to 40'),
        (NODATA.replace("-1", "inf"), "a.toml: nodata silent: mock: found Infinity, allowed: a number"),
        (NODATA + "step = 0", "a.toml: nodata silent: step: found 0, allowed: seconds"),
        (NODATA + "counter_type = 'gauge'", "a.toml: nodata silent: counter_type: "),
    ],
)
def test_wrong_sections(tmp_path: Path, text: str, complaint: str) -> None:
    (line,) = complaints(write(tmp_path, text))
    assert line.startswith(complaint)


def test_a_second_template_section(tmp_path: Path) -> None:
    write(tmp_path, "[template]\n")
    write(tmp_path, '[template]\nname = "b"\n', "b.toml")
    assert complaints(str(tmp_path)) == [f"b.toml: template: is in {tmp_path}/a.toml already"]


def test_files_that_are_no_rules(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot find rules: .* holds no \*.toml file; .* --rules DIR"):
        read_rules(str(tmp_path))
    with pytest.raises(ConfigError, match="is no directory"):
        read_rules(str(tmp_path / "absent"))
    for content, reason in (
        (b"[", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"#" * (MAX_FILE_BYTES + 1), "longer than"),
    ):
        (tmp_path / "a.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"cannot use {tmp_path}/a.toml: {reason}"):
            read_rules(str(tmp_path))
    (tmp_path / "a.toml").unlink()
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*a\.toml: Is a directory"):
        read_rules(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "text"),
    [(90, "90"), (0.5, "0.5"), (90.0, "90"), (-0.25, "-0.25"), (1e6, "1000000"), (-0.0, "0")],
)
def test_numbers_without_an_exponent(value: float, text: str) -> None:
    assert number(value) == text
