"""From a TOML file and the environment to validated settings."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ValidationError

from falcon_agent.config.explaining import explain
from falcon_agent.config.model import SettingsModel
from falcon_agent.config.settings import DEFAULT_PATH, ENVIRONMENT_PREFIX, settings_of
from falcon_agent.config.textfile import read_text
from falcon_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.config.settings import Settings

_MAX_BYTES = 1024 * 1024


def load(path: str | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file and the environment; arguments and errors as of `load_tree`."""
    return settings_of(load_tree(path, environment))


def load_tree(path: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings of a file and the environment, in the form that `settings_of` takes.

    Args:
        path: the file; None means the default one if it exists, else defaults only.
        environment: `FALCON_AGENT__SECTION__KEY=value` overrides what the file says; lists are written
            as TOML arrays or separated by commas.

    Raises:
        ConfigError: listing everything that is wrong: file, line, key, what was found, what is allowed.
    """
    if path is None and os.path.exists(DEFAULT_PATH):
        path = DEFAULT_PATH
    text = read_text(path, _MAX_BYTES, "the configuration") if path is not None else ""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot use {path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"cannot use {path}: nested too deeply") from None
    variables = _override(found, environment)
    try:
        return SettingsModel.model_validate(found).tree()
    except ValidationError as error:
        lines = [explain(problem, path, text, variables) for problem in error.errors()]
        source = path or "the environment"
        raise ConfigError(f"cannot use {source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _override(found: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put the environment's values into what the file said; returns which variable set which key."""
    variables: dict[tuple[str, ...], str] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        place = found
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"cannot use {name}: {key} is not a section")
            place = inner
        place[keys[-1]] = _typed(value, _annotation(keys))
        variables[keys] = name
    return variables


def _annotation(keys: tuple[str, ...]) -> Any:
    """The declared type of a setting, or None where there is no such setting."""
    model: Any = SettingsModel
    for key in keys:
        if get_origin(model) is dict:
            return str
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or key not in model.model_fields:
            return None
        model = model.model_fields[key].annotation
    return model


def _typed(value: str, annotation: Any) -> Any:
    """The value of an environment variable in the type the setting has, as far as that can be told."""
    if annotation is str or get_origin(annotation) is Annotated or get_origin(annotation) is Literal:
        return value
    is_list = get_origin(annotation) is list
    if is_list and not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
