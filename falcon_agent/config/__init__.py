"""The configuration: one TOML file, overridden by environment variables, checked before anything starts.

`Settings` are plain values, which the rest of the program is given. pydantic checks them (`model`, `loading`); it takes
9 MB, so the daemon lets another process do that (`validation`).
"""

from falcon_agent.config.settings import DEFAULT_PATH, ENVIRONMENT_PREFIX, Settings, Target

__all__ = ["DEFAULT_PATH", "ENVIRONMENT_PREFIX", "Settings", "Target"]
