"""Validating in another process: the same settings and the same words as in this one, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cli import build_parser
from falcon_agent.cli.options import validating
from falcon_agent.config.loading import load
from falcon_agent.config.model import SettingsModel
from falcon_agent.config.settings import Settings
from falcon_agent.config.validation import Validation
from falcon_agent.errors import ConfigError, FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parent.parent.parent / "config" / "agent.toml"
SECONDS = 60.0
_BEGUN: list[Validation] = []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    _BEGUN.clear()
    yield
    # Earlier tests' servers may be about to close some.
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    for validation in _BEGUN:
        with pytest.raises(ChildProcessError):
            os.waitpid(validation._process, os.WNOHANG)


def begun(path: object, environment: Mapping[str, str] | None = None, seconds: float = SECONDS) -> Validation:
    _BEGUN.append(Validation(None if path is None else str(path), environment or {}, seconds))
    return _BEGUN[-1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_every_section_and_key_has_a_plain_value() -> None:
    assert {field.name for field in dataclasses.fields(Settings)} == set(SettingsModel.model_fields)
    assert begun(EXAMPLE).settings() == load(str(EXAMPLE), {})
    assert begun(None).settings() == load(None, {})


def test_file_and_environment_count_as_they_do_here(tmp_path: Path) -> None:
    text = "[tags]\nidc = 'bj'\n[transfer]\nheaders = { X-Token = '密' }\n[discovery.include]\nname = ['web-*']\n"
    targets = "[[transfer.targets]]\nname = 'n9e'\naddresses = ['http://b/']\n"
    path = write(tmp_path, text + targets)
    environment = {"FALCON_AGENT__AGENT__STEP": "30", "FALCON_AGENT__AGENT__ENDPOINT": "主机"}
    assert begun(path, environment).settings() == load(str(path), environment)
    assert begun(path, environment).settings().agent.step == 30


@pytest.mark.parametrize(
    "text", ["[agent]\nstep = 0\nstop = 1\n", "[agent]\nstep =\n", "[transfer]\nheaders = { X = ['s3cret'] }"]
)
def test_a_refusal_has_the_same_words(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as here:
        load(str(path), {})
    with pytest.raises(ConfigError) as there:
        begun(path).settings()
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("name", ["none.toml", "'\"; import os #", "\udcff", "a\0b", ""])
def test_a_name_of_any_kind_is_only_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as here:
        load(f"{tmp_path}/{name}", {})
    with pytest.raises(ConfigError) as there:
        begun(f"{tmp_path}/{name}").settings()
    assert str(there.value) == str(here.value)


@pytest.fixture
def standstill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finds a validator that never comes to an end, however late it is looked at."""
    room = tmp_path / "falcon_agent/config"
    room.mkdir(parents=True)
    for package in (room, room.parent):
        (package / "__init__.py").touch()
    (room / "validator.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("standstill")
def test_a_process_that_takes_too_long_is_ended() -> None:
    validation = begun(EXAMPLE, seconds=0.1)
    caught: list[FalconAgentError] = []

    def wait() -> None:
        try:
            validation.settings()
        except FalconAgentError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(SECONDS)
    if waiting.is_alive():
        os.kill(validation._process, signal.SIGKILL)
        waiting.join()
        pytest.fail("it waited for a process that stands still")
    assert re.match("cannot validate the configuration: .* takes too long", str(caught[0]))
    assert not isinstance(caught[0], ConfigError)


@pytest.mark.usefixtures("standstill")
def test_a_killed_process_is_no_fault_of_the_configuration() -> None:
    validation = begun(EXAMPLE)
    os.kill(validation._process, signal.SIGKILL)
    with pytest.raises(FalconAgentError, match="was killed by signal 9") as caught:
        validation.settings()
    assert not isinstance(caught.value, ConfigError)


def test_a_process_that_cannot_do_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", ["/nonexistent"])
    with pytest.raises(FalconAgentError, match="ended with exit code 1"):
        begun(EXAMPLE).settings()
    assert "ModuleNotFoundError" in capfd.readouterr().err


def test_where_no_process_can_be_started_it_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    args = build_parser().parse_args(["run", "--config", str(EXAMPLE), "--proc", "/host/proc"])
    assert validating(args)().paths.proc == "/host/proc"
    assert not caplog.records
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert validating(args)().paths.proc == "/host/proc"
    assert "cannot start a process" in caplog.text


def test_it_needs_nothing_that_the_launcher_did_without() -> None:
    """A packaged launcher takes neither site-packages nor the environment; and children may be nobody's to wait for."""
    program = (
        "import sys, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        f"sys.path[:] = {sys.path!r}; from falcon_agent.config.validation import Validation; "
        "print(Validation(None, {}).settings().agent.step, 'pydantic' in sys.modules)"
    )
    argv = [sys.executable, "-I", "-S", "-OO", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert (done.stdout, done.stderr) == ("60 False\n", "")
