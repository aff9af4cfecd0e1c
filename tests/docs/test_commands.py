"""Every command that a document shows is run as it stands there, or is listed here with what covers it."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import DOCUMENTS, TREE, commands, read
from tests.docs.stage import WORK, is_at_work, stage
from tests.real.engine import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.docs.stage import Stage
    from tests.real.engine import Engine

ELSEWHERE = {
    r"make (test|test-packages|test-v2)": ".ci/run",
    r"make check": ".ci/run",
    r"make rpm": "tests/packaging",
    r"dnf install .*": "tests/packaging",
    r"systemctl .*": "tests/packaging",
    r"journalctl .*": "tests/packaging",
    r"ln -s /usr/share/falcon-agent/.*": "tests/packaging",
    r"(kubectl apply|docker build|docker run) .*": "tests/deploy",
    r"\w+ /etc/falcon-agent/agent.toml": "tests/config",
    r"falcon-agent (rules|dashboards) apply .*": "tests/cli/test_rules.py",
    r"curl .*/user/login.*": "tests/portal",
}
"""What is not run here, and where it is instead: whole runs of the tests, and what needs systemd as PID 1, a cluster, a
portal or a network."""

STANDS_FOR = {
    "make demo": "python -m demo",  # without making the environment anew under the feet of the tests
}

CODES = {
    "falcon-agent check": {0, 1},  # 1: something is missing, which is so on most machines
    "falcon-agent explain worker container.cpu.throttled.percent": {1},  # shown because there is none
}

STAYS = re.compile(r"falcon-agent (run|receive)\b(?!.*--(count|help))")


def where(command: str) -> str | None:
    """What covers a command that is not run here."""
    return next((place for form, place in ELSEWHERE.items() if re.fullmatch(form, command)), None)


TRANSLATED = {"README.zh-CN.md": "README.md"}
RUN = [
    document
    for document in DOCUMENTS
    if document not in TRANSLATED and any(where(one) is None for one in commands(document))
]


stood_for: set[str] = set()
"""What takes long and is shown in several documents, and has been run."""


@pytest.fixture(scope="module")
def host(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A host with two containers, `web` and `worker`."""
    limits = ("--memory", "64m", "--cpus", "0.5")
    with (
        docker_engine.container("--name", "web", *limits, command=("sh", "-c", WORK)) as web,
        docker_engine.container("--name", "worker"),
        stage(docker_engine, tmp_path_factory.mktemp("host")) as made,
    ):
        pid = docker_engine.pid(web)
        wait_until(lambda: is_at_work(pid), "the connections of web are there")
        yield made


@pytest.mark.real
@pytest.mark.parametrize("document", RUN)
def test_they_work_one_after_the_other(document: str, host: Stage) -> None:
    transfer = start(host, "falcon-agent receive")
    staying = {"falcon-agent receive": transfer}
    try:
        for command in commands(document):
            if where(command) is not None:
                continue
            if STAYS.search(command):
                if "receive" in command and transfer.poll() is None:
                    assert end(transfer) == 0
                staying[command] = start(host, command)
                continue
            if command in STANDS_FOR and command in stood_for:
                continue
            stood_for.add(command)
            done = host.run(STANDS_FOR.get(command, command))
            assert done.returncode in CODES.get(command, {0}), f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr
    finally:
        codes = {command: end(process) for command, process in reversed(staying.items())}
    assert set(codes.values()) <= {0}, codes


def start(host: Stage, command: str) -> subprocess.Popen[str]:
    """Start what stays, and wait until it has said something: it listens, or has begun its work."""
    process = host.start(command)
    assert process.stderr is not None
    said = ""
    while not re.search("listening on|started", said):
        line = process.stderr.readline()
        assert line, said
        said += line
    return process


def end(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    return process.returncode


def test_what_is_not_run_here_is_covered_where_it_says() -> None:
    shown = [one for document in DOCUMENTS for one in commands(document)]
    for form, place in ELSEWHERE.items():
        assert (TREE / place).exists(), place
        assert any(re.fullmatch(form, one) for one in shown), f"no document shows {form}"


def test_a_translation_shows_the_same_commands() -> None:
    for translation, original in TRANSLATED.items():
        assert commands(translation) == commands(original)


def test_the_tests_that_the_readme_names_are_those_of_ci() -> None:
    run_by_ci = re.findall(r"^make \S+", (TREE / ".ci/run").read_text(), re.MULTILINE)
    for document in ("README.md", "README.zh-CN.md"):
        shown = [one for one in commands(document) if re.match("make test", one)]
        assert shown
        assert set(shown) <= set(run_by_ci)


def test_make_knows_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (TREE / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z0-9-]+)", read(document)))
        named |= {one.split()[1] for one in commands(document) if one.startswith("make ")}
        assert named <= targets, f"{document}: {named - targets}"
