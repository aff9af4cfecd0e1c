"""The program under test in a container of a real Docker engine, as people run it who install nothing on the host.

The container has no image of its own: it sees this machine's Python, libraries and working tree read-only, and
nothing else of the machine but what a test gives it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli.programs import AGENT, PATIENCE
from tests.real.engine import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.real.engine import Engine

REPOSITORY = Path(__file__).parent.parent.parent

HOST_FILES = ("--volume=/proc:/host/proc:ro", "--volume=/sys:/host/sys:ro")
"""Options that show the host's kernel file systems, as docs say."""
ROOTS = ("--proc", "/host/proc", "--sys", "/host/sys")
"""What the agent is told of them."""
ENTERING = ("--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE")
"""Options that let it enter network namespaces."""


def program_files() -> list[str]:
    """Options that show what the program needs to run, at the places where it is on this machine."""
    places = [sys.base_prefix, sys.prefix, str(REPOSITORY), "/usr", "/lib", "/lib64"]
    return [f"--volume={place}:{place}:ro" for place in dict.fromkeys(places) if os.path.isdir(place)]


def docker_socket(engine: Engine) -> str:
    """The option that shows the engine's socket where the agent looks for it."""
    return f"--volume={engine.socket}:/var/run/docker.sock"


def falcon_agent_inside(
    engine: Engine, *args: str, options: Sequence[str] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent to its end in a container made for it.

    Args:
        engine: that runs the container.
        args: of the command.
        options: of `docker run`.
        settings: as in `tests.cli.programs.environment`.
    """
    env = [f"--env=FALCON_AGENT__{name}={value}" for name, value in settings.items()]
    box = ["docker", "--host", engine.url, "run", "--rm", *program_files(), *env, *options, BUSYBOX]
    return subprocess.run(
        [*box, AGENT, *args], capture_output=True, text=True, check=False, timeout=3 * PATIENCE
    )
