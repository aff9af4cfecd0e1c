"""The configuration: defaults, overrides, and errors a person can act on."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.collectors import DEFAULTS, NAMES
from falcon_agent.config.loading import load
from falcon_agent.config.model import SettingsModel
from falcon_agent.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent.parent / "config" / "agent.toml"
UNCOMMENTED = re.sub(r"^#(\w+ = |\[\[)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return str(path)


def refused(path: str | None, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environment)
    return str(caught.value)


def test_nothing_given_means_defaults() -> None:
    settings = load(None, {})

    assert settings.agent.step == 60
    assert settings.agent.endpoint == "{hostname}"
    assert settings.transfer.addresses == ["http://127.0.0.1:6060/api/push"]
    assert settings.collectors.enabled == list(DEFAULTS)
    assert {"sockets", "cpu", "memory", "network"} <= set(DEFAULTS) < set(NAMES)


def test_example_names_every_key_with_its_default() -> None:
    shown = tomllib.loads(UNCOMMENTED)
    defaults = SettingsModel().model_dump()

    assert leaves(shown) == leaves(defaults) | {"tags.idc", "containers.tags.app", "transfer.headers.X-Token"}
    examples = {"tags", "headers", "targets"}
    for name, section in defaults.items():
        for key, value in section.items():
            if key not in examples and name != "tags":
                assert shown[name][key] == value, f"{name}.{key}"


def leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_example_is_accepted_as_it_is_and_uncommented(tmp_path: Path) -> None:
    assert load(str(EXAMPLE), {}) == load(None, {})
    assert load(write(tmp_path, UNCOMMENTED), {}).containers.tags == {"app": "{label:com.example.app}"}


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "[agent]\nstep = 60\nendpoint = \n")
    message = refused(path)
    assert path in message
    assert "line 3" in message


def test_unknown_key_names_line_and_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, "[agent]\nstep = 60\n\n[transfer]\n# typed in a hurry\nadresses = []\n")
    message = refused(path)
    assert f"{path}:6: transfer.adresses: unknown key; did you mean addresses?" in message
    assert "batch_size" in message


def test_unknown_section(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "[agnet]\nstep = 1\n"))
    assert "agnet: unknown key; did you mean agent?" in message


@pytest.mark.parametrize(
    ("text", "key", "found", "allowed"),
    [
        ('[agent]\nstep = "60"', "agent.step", '"60"', "valid integer"),
        ("[agent]\nstep = 60.5", "agent.step", "60.5", "valid integer"),
        ("[agent]\nstep = true", "agent.step", "true", "valid integer"),
        ("[agent]\nstep = 0", "agent.step", "0", "greater than or equal to 1"),
        ('[agent]\nendpoint = "{host}"', "agent.endpoint", '"{host}"', "{hostname}"),
        ('[agent]\nendpoint = "{hostname"', "agent.endpoint", '"{hostname"', "unpaired brace"),
        ("[transfer]\ntimeout = nan", "transfer.timeout", "NaN", "less than or equal to 300"),
        ("[transfer]\ntimeout = inf", "transfer.timeout", "Infinity", "less than or equal to 300"),
        ("[transfer]\naddresses = []", "transfer.addresses", "[]", "at least 1 item"),
        ('[transfer]\naddresses = "http://a"', "transfer.addresses", '"http://a"', "valid list"),
        ('[transfer]\naddresses = ["ftp://a"]', "transfer.addresses.0", '"ftp://a"', "http://"),
        ('[transfer]\naddresses = ["http://a:99999/"]', "transfer.addresses.0", "99999", "0-65535"),
        ('[transfer]\naddresses = ["http://u:p@a/"]', "transfer.addresses.0", "//***@a", "password_file"),
        ('[discovery]\nruntimes = ["rkt"]', "discovery.runtimes.0", '"rkt"', "'docker'"),
        ('[discovery]\ndocker = "/var/run/docker.sock"', "discovery.docker", "docker.sock", "unix:///"),
        ('[collectors]\nenabled = ["gpu"]', "collectors.enabled.0", '"gpu"', "sockets or cpu"),
        ("[transfer]\naddresses = ['rpc://a']", "transfer.addresses.0", "rpc://a", "8433"),
        ("[heartbeat]\naddress = 'hbs'", "heartbeat.address", "hbs", "6030"),
        ("[spool]\npace = 0", "spool.pace", "0", "0.2"),
        ("[tags]\nidc = 1", "tags.idc", "1", "valid string"),
        ('[tags]\n"a b" = "c"', "tags.a b", "a b", "tag key"),
        ('[log]\nlevel = "loud"', "log.level", '"loud"', "'debug'"),
    ],
)
def test_wrong_value_names_line_key_found_and_allowed(
    tmp_path: Path, text: str, key: str, found: str, allowed: str
) -> None:
    path = write(tmp_path, text)
    message = refused(path)
    assert f"{path}:2: {key}: " in message
    assert found in message.split("allowed:")[0]
    assert allowed in message.split("allowed:")[1]


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "[agent]\nstep = 0\nstop = 1\n[log]\nlevel = 3\n"))
    assert len(message.splitlines()) == 4


def test_secret_header_is_not_shown(tmp_path: Path) -> None:
    message = refused(write(tmp_path, '[transfer]\nheaders = { X-Token = ["s3cret"] }\n'))
    assert "s3cret" not in message


def test_missing_directory_and_unreadable_files(tmp_path: Path) -> None:
    assert "No such file" in refused(str(tmp_path / "none.toml"))
    assert "Is a directory" in refused(str(tmp_path)) or "not a regular file" in refused(str(tmp_path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(str(binary))
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    assert "larger than" in refused(str(large))
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    assert "not a regular file" in refused(str(fifo))


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[agent]\nstep = 60\n[tags]\nidc = 'bj'\nroom = '1'\n")
    settings = load(
        path,
        {
            "FALCON_AGENT__AGENT__STEP": "30",
            "FALCON_AGENT__TRANSFER__ADDRESSES": "http://a/api/push, http://b/api/push",
            "FALCON_AGENT__TRANSFER__USERNAME": "12345",
            "FALCON_AGENT__TRANSFER__TIMEOUT": "1.5",
            "FALCON_AGENT__NETWORK__VETH_TAG": "true",
            "FALCON_AGENT__DISCOVERY__INCLUDE__NAME": '["web-*", "a,b"]',
            "FALCON_AGENT__TAGS__IDC": "sh",
            "PATH": "/bin",
        },
    )
    assert settings.agent.step == 30
    assert settings.transfer.addresses == ["http://a/api/push", "http://b/api/push"]
    target = settings.transfer.targets[0]
    assert (target.username, target.timeout) == ("12345", 1.5)
    assert settings.network.veth_tag is True
    assert settings.discovery.include["name"] == ["web-*", "a,b"]
    assert settings.tags == {"idc": "sh", "room": "1"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FALCON_AGENT__AGENT__STEP", "soon", "agent.step"),
        ("FALCON_AGENT__AGENT__STOP", "1", "unknown key"),
        ("FALCON_AGENT__AGENT", "1", "agent"),
        ("FALCON_AGENT__AGENT__STEP__DEEP", "1", "agent.step"),
        ("FALCON_AGENT__", "1", "unknown key"),
    ],
)
def test_bad_environment_names_the_variable(name: str, value: str, said: str) -> None:
    message = refused(None, **{name: value})
    assert name in message
    assert said in message


def test_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\nnot this\n")
    settings = load(write(tmp_path, f'[transfer]\npassword_file = "{secret}"\n'), {})
    assert settings.transfer.targets[0].password() == "hunter2"
    with pytest.raises(ConfigError, match=r"cannot read password_file /nonexistent: No such file"):
        load(write(tmp_path, '[transfer]\npassword_file = "/nonexistent"\n'), {}).transfer.targets[
            0
        ].password()


def test_targets_add_to_the_addresses_or_replace_the_default_ones(tmp_path: Path) -> None:
    target = "[[transfer.targets]]\nname = 'n9e'\naddresses = ['http://b/']\ngzip = true\n"
    only = load(write(tmp_path, target), {}).transfer.targets
    assert [(one.name, one.addresses, one.gzip) for one in only] == [("n9e", ["http://b/"], True)]
    both = load(write(tmp_path, "[transfer]\ntimeout = 2\naddresses = ['rpc://a:8433']\n" + target), {})
    assert [(one.name, one.timeout) for one in both.transfer.targets] == [("default", 2), ("n9e", 5)]
    assert "differ from each other" in refused(write(tmp_path, target + target))
    assert "'default'" in refused(write(tmp_path, target.replace("n9e", "default")))


@given(st.text())
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    path = f"/dev/shm/falcon-agent-test-{os.getpid()}.toml"
    try:
        Path(path).write_text(text, encoding="utf-8", errors="surrogatepass")
        load(path, {})
    except ConfigError as error:
        assert path in str(error)  # noqa: PT017  either outcome is right, only its form is held
    finally:
        Path(path).unlink()
