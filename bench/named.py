"""`falcon-agent` whose threads tell the kernel their names, so that wake-ups can be told apart.

Python 3.11 keeps the names to itself. Nothing else is different; memory is measured on the plain program.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

from falcon_agent.cli import main


def _tell(*_: Any) -> None:
    """Called once at the start of each thread; /proc/PID/comm holds 15 characters."""
    sys.setprofile(None)
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(threading.current_thread().name[:15])


if __name__ == "__main__":
    threading.setprofile(_tell)
    _tell()
    sys.exit(main())
