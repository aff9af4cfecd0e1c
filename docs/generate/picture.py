"""`python -m docs.generate.picture`: docs/collect.svg, what `falcon-agent collect --dry-run` writes to a terminal.

A real container of a private Docker engine, the installed program, a pseudo-terminal; only its first lines are shown.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.docs.stage import WORK, Stage, is_at_work, stage
from tests.real.engine import Engine, wait_until

TREE = Path(__file__).parent.parent.parent
PICTURE = TREE / "docs" / "collect.svg"
COMMAND = "falcon-agent collect --dry-run --container web"
COLUMNS = 84
SUBJECTS = re.compile(
    r"container\.(tcp\.(establish|timewait|orphan|closewait|listen\.)|cpu\.(busy|cores|throttled\.percent)"
    r"|mem\.memused|net\.if\.in\.bytes|df\.bytes\.used\.percent|pressure\.memory\.some|uptime)"
)
"""The rows that are shown; all of them would fill two screens."""


def shown(host: Stage) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    settings = host.environment() | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(host.argv(COMMAND), stdin=theirs, stdout=theirs, env=settings) as process:
        os.close(theirs)
        parts = []
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                parts.append(part)
    os.close(ours)
    if process.returncode:
        raise RuntimeError(f"cannot make the picture: {COMMAND} ended with {process.returncode}")
    return b"".join(parts).decode()


def chosen(text: str) -> str:
    """The title, the table's head, some rows, and a line for those between."""
    lines = text.replace("\r", "").splitlines()
    table = next(number for number, line in enumerate(lines) if "METRIC" in line)
    rows = [line for line in lines[table + 2 :] if SUBJECTS.search(line)]
    left_out = sum("container." in line for line in lines) - len(rows)
    prompt = f"\x1b[1m$ {COMMAND}\x1b[0m"
    return "\n".join((prompt, "", *lines[: table + 2], *rows, f"  ... and {left_out} more"))


def svg(text: str) -> str:
    """The text as a terminal's window; fonts are the viewer's own, nothing is loaded."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    drawn = console.export_svg(title="falcon-agent", theme=MONOKAI, unique_id="collect")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    drawn = re.sub(r"<!-- Generated with Rich.*?-->", "", drawn)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def main() -> int:
    """Draw it."""
    engine = Engine()
    engine.start()
    try:
        limits = ("--memory", "64m", "--cpus", "0.5")
        with (
            engine.container("--name", "web", *limits, command=("sh", "-c", WORK)) as web,
            tempfile.TemporaryDirectory() as directory,
            stage(engine, Path(directory)) as host,
        ):
            pid = engine.pid(web)
            wait_until(lambda: is_at_work(pid), "its connections are there")
            engine.exec(web, "sh", "-c", "for n in 1 2 3; do echo | nc -w 1 127.0.0.1 8000; done >/dev/null")
            PICTURE.write_text(svg(chosen(shown(host))), encoding="utf-8")
    finally:
        engine.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
