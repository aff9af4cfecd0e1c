"""`falcon-agent rules` as a person or a script meets it; the portal is the double of tests/portal."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.cli.rules import markdown
from falcon_agent.collectors import catalogue
from falcon_agent.portal.rulefiles import read_rules
from tests.cli.programs import falcon_agent
from tests.portal.double import Portal, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "config" / "rules"
SHIPPED = read_rules(str(RULES))
METRICS = {metric.name: metric for _, metric in catalogue()}


@pytest.fixture
def portal() -> Iterator[Portal]:
    running = Portal()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("root:rootsig\n")
    path.chmod(0o600)
    return str(path)


def apply(portal: Portal, token: str, *options: str) -> CompletedProcess[str]:
    return falcon_agent(
        "rules", "apply", "--api", portal.address, "--token-file", token, "--rules", str(RULES), *options
    )


# the rules that are shipped


@pytest.mark.parametrize("rule", [*SHIPPED.rules, *SHIPPED.nodata], ids=lambda rule: rule.name)
def test_a_shipped_rule_is_about_what_the_agent_sends(rule: Any) -> None:
    metric = METRICS[rule.metric]
    own = {"name", "pod", "namespace"} if rule.metric.startswith("container.") else set()
    assert {key for key, _ in rule.tags} <= own | set(metric.tags)
    if metric.unit == "percent" and hasattr(rule, "threshold"):
        assert 0 < rule.threshold <= 100


def test_nodata_watches_a_series_that_always_comes_and_a_rule_tells() -> None:
    (nodata,) = SHIPPED.nodata
    telling = [
        rule
        for rule in SHIPPED.rules
        if (rule.metric, rule.tags, rule.op) == (nodata.metric, nodata.tags, "<")
        and nodata.mock < rule.threshold
    ]
    assert telling
    assert nodata.counter_type == METRICS[nodata.metric].counter_type


def test_the_guide_shows_them() -> None:
    table = "\n".join(markdown(SHIPPED))
    assert table in (ROOT / "docs" / "alerting.md").read_text()
    assert falcon_agent("rules", "list", "--markdown", "--rules", str(RULES)).stdout == table + "\n"


def test_the_guides_example_is_a_rule(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "alerting.md").read_text()
    begin = guide.index("    [[expression]]")
    (tmp_path / "a.toml").write_text(textwrap.dedent(guide[begin : guide.index("## Silence")]))
    (rule,) = read_rules(str(tmp_path)).rules
    assert rule.metric in METRICS
    assert rule.tags == (("name", "redis"),)


# list and render


def test_list() -> None:
    text = falcon_agent("rules", "list", "--rules", str(RULES)).stdout
    for rule in SHIPPED.rules:
        assert f"{rule.metric}" in text
        assert rule.condition in text
        assert rule.why in text
    document = json.loads(falcon_agent("rules", "list", "--json", "--rules", str(RULES)).stdout)
    names = [rule["name"] for rule in document["rules"]]
    assert names == [rule.name for rule in SHIPPED.rules]
    assert document["nodata"][0]["tags"] == {"agent": "falcon-agent"}


def test_the_source_trees_rules_are_found() -> None:
    assert "memory-near-limit" in falcon_agent("rules", "list").stdout


def test_render_is_what_apply_sends(portal: Portal, token: str) -> None:
    done = falcon_agent("rules", "render", "--rules", str(RULES), "--team", "ops", "--template", "mine")
    requests = json.loads(done.stdout)
    assert apply(portal, token, "--team", "ops", "--template", "mine").returncode == 0
    assert [(each["method"], each["path"]) for each in requests] == portal.changes
    bodies = [each["body"] for each in requests if each["path"] == "/api/v1/strategy"]
    stored = [{**row, "tpl_id": None} for row in portal.strategies.values()]
    assert stored == [{"id": number, **body} for number, body in enumerate(bodies, 1)]
    assert all(row["note"].startswith("mine/") for row in stored)


def test_a_metric_that_does_not_exist_is_warned_of(tmp_path: Path) -> None:
    text = (RULES / "agent.toml").read_text().replace("falcon_agent.runtime.up", "falcon_agent.runtime.upp")
    (tmp_path / "a.toml").write_text(text.replace("agent.alive", "cpu.busy"))
    done = falcon_agent("rules", "list", "--rules", str(tmp_path))
    assert done.returncode == 0
    assert done.stderr == (
        "falcon-agent: warning: rule runtime-down: this agent has no metric falcon_agent.runtime.upp; "
        "falcon-agent metrics lists them\n"
    )


# apply


def test_apply_twice(portal: Portal, token: str) -> None:
    things = len(SHIPPED.rules) + len(SHIPPED.nodata) + 4
    done = apply(portal, token, "--team", "ops", "--team", "dev")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *lines, summary, note = done.stdout.splitlines()
    assert summary == f"{things} created, 0 updated, 0 unchanged"
    assert note == "note: host group docker-hosts holds no host, so no strategy applies yet: add hosts to it"
    assert [line.split()[0] for line in lines] == ["+"] * things
    assert "+    strategy memory-near-limit" in lines
    portal.hosts[1] = ["h1"]
    again = apply(portal, token, "--team", "ops", "--team", "dev")
    assert again.stdout == f"0 created, 0 updated, {things} unchanged\n"


def test_a_dry_run_changes_nothing_and_a_hand_made_change_is_shown(portal: Portal, token: str) -> None:
    dry = apply(portal, token, "--dry-run")
    assert portal.changes == []
    assert "dry run, nothing was changed: it would be " in dry.stdout
    apply(portal, token)
    busy = next(row for row in portal.strategies.values() if row["metric"] == "container.cpu.busy")
    busy |= {"right_value": "50\x1b[31m"}
    portal.asked.clear()
    dry = apply(portal, token, "--dry-run")
    assert "~    strategy cpu-busy\n       right_value: 50\\x1b[31m -> 90\n" in dry.stdout
    assert portal.changes == []
    assert "1 updated" in apply(portal, token).stdout
    assert busy["right_value"] == "90"


def test_json(portal: Portal, token: str) -> None:
    apply(portal, token)
    next(iter(portal.expressions.values()))["max_step"] = 9
    portal.nodata.insert({**portal.nodata[1], "name": "falcon-agent/old"})
    document = json.loads(apply(portal, token, "--json", "--dry-run").stdout)
    assert (document["dry_run"], document["updated"], document["left_over"]) == (True, 1, 1)
    assert document["changes"] == [
        {
            "sign": "~",
            "kind": "expression",
            "name": "agent-silent",
            "fields": {"max_step": {"portal": 9, "files": 3}},
        },
        {"sign": "?", "kind": "nodata", "name": "old", "fields": {}},
    ]
    assert any("nobody is told" in line for line in document["advice"])


def test_what_is_left_over_is_told_and_pruned_only_when_asked(portal: Portal, token: str) -> None:
    apply(portal, token)
    portal.nodata.insert({**portal.nodata[1], "name": "falcon-agent/old"})
    told = apply(portal, token).stdout
    assert "?    nodata old is no longer in the files; --prune removes it" in told
    assert "1 no longer in the files" in told
    assert len(portal.nodata) == 2
    assert "-    nodata old\n" in apply(portal, token, "--prune").stdout
    assert len(portal.nodata) == 1


def test_a_token_that_everybody_may_read(portal: Portal, token: str) -> None:
    Path(token).chmod(0o644)
    done = apply(portal, token)
    assert done.returncode == 0
    assert (
        done.stderr == f"falcon-agent: warning: everybody on this host may read {token}: chmod 600 {token}\n"
    )
    assert "rootsig" not in done.stdout


def test_a_refusal_in_the_middle(portal: Portal, token: str) -> None:
    portal.refuse["POST", "/api/v1/nodata/"] = Refused(417, "no")
    done = apply(portal, token)
    assert done.returncode == 1
    assert "+    expression agent-silent" in done.stdout
    assert done.stderr.startswith("falcon-agent: cannot apply nodata agent-silent: POST http://127.0.0.1:")
    portal.refuse.clear()
    assert "1 created" in apply(portal, token).stdout


def test_exit_codes(portal: Portal, token: str, tmp_path: Path) -> None:
    Path(token).write_text("root:bad")
    for options, code, text in (
        ((), 1, 'it answered 401 "session not found"'),
        (("--rules", str(tmp_path)), 2, "cannot find rules: "),
        (("--template", "a b"), 2, 'command line: name: found "a b", allowed: '),
        (("--timeout", "0"), 2, "cannot use --timeout 0: allowed: more than 0 seconds"),
        (("--timeout", "nan"), 2, "cannot use --timeout nan"),
        (("--api", "portal:8080"), 2, "cannot use the address given as --api"),
        (("--api", "http://127.0.0.1:1"), 1, "connection refused"),
        (("--ca-file", "/nonexistent"), 2, "cannot use --ca-file /nonexistent"),
        (("--token-file", "/nonexistent"), 2, "cannot read the token in /nonexistent"),
    ):
        done = apply(portal, token, *options)
        assert (done.returncode, done.stdout) == (code, ""), options
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert "bad" not in done.stderr.replace(token, "")
    assert portal.changes == []


@pytest.mark.parametrize("action", ["list", "render", "apply"])
def test_help(action: str) -> None:
    done = falcon_agent("rules", action, "--help")
    assert done.returncode == 0
    assert "--rules DIR" in done.stdout
