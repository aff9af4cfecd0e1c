"""Validating the configuration in another process, so that this one needs no pydantic.

pydantic with our model takes 9 MB, and what it is for is over before the first container is measured. The other
process is this interpreter with the same module path. It is the same at the start and at a reload, when threads run:
posix_spawn(3) copies nothing of this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from falcon_agent.config.settings import settings_of
from falcon_agent.errors import ConfigError, FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.config.settings import Settings

_SECONDS = 20.0
"""It takes a quarter of a second; a file on a dead network file system takes for ever."""

_PROGRAM = """\
import sys
sys.path[:] = {modules!r}
from falcon_agent.config.validator import main
main({path!r})
"""


class Validation:
    """A validation that has begun; ask for `settings` when other work is done.

    Args:
        path: as for `loading.load_tree`.
        environment: likewise.
        seconds: that it may take, from now.

    Raises:
        OSError: the other process cannot be started.
    """

    def __init__(self, path: str | None, environment: Mapping[str, str], seconds: float = _SECONDS) -> None:
        self._deadline = time.monotonic() + seconds
        program = _PROGRAM.format(modules=sys.path, path=path)
        # The module path is given, so nothing has to be found; compiled files are found for this level only.
        flags = ["-I", "-S", *(["-" + "O" * sys.flags.optimize] if sys.flags.optimize else [])]
        self._answer, theirs = os.pipe()
        try:
            self._process = os.posix_spawn(
                sys.executable,
                [sys.executable, *flags, "-c", program],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)],
                # Ctrl-C is for us to answer; it ends by itself. What we have blocked it has not.
                setsigmask=[signal.SIGINT],
            )
        except BaseException:
            os.close(self._answer)
            raise
        finally:
            os.close(theirs)

    def settings(self) -> Settings:
        """The settings; to be asked once.

        Raises:
            ConfigError: they cannot be used.
            FalconAgentError: the process was killed, or takes too long.
        """
        answer = self._read()
        match answer:
            case {"settings": tree}:
                return settings_of(tree)
            case {"error": message}:
                raise ConfigError(message)
        raise FalconAgentError(f"cannot validate the configuration: {answer}")

    def _read(self) -> Any:
        """What it says, or why it says nothing."""
        content = b""
        try:
            # Not select(2), which knows the first 1024 descriptors only.
            ready = select.poll()
            ready.register(self._answer, select.POLLIN)
            while ready.poll(max(self._deadline - time.monotonic(), 0) * 1000):
                if not (part := os.read(self._answer, 65536)):
                    break
                content += part
            else:
                os.kill(self._process, signal.SIGKILL)
                return "its process takes too long; is the file on a file system that hangs?"
        finally:
            os.close(self._answer)
            status = 0
            with contextlib.suppress(ChildProcessError):  # whoever started us ignores SIGCHLD
                status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        try:
            return json.loads(content)
        except ValueError:
            said = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            return f"its process {said}; is there memory enough?"
