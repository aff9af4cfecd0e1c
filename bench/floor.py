"""The C floor (floor.c): compiled on the spot, and asked for one pass at a time."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

Order: TypeAlias = Literal["files", "kept", "dumps", "held"]
"""What one pass does; floor.c says it."""

_SOURCE = Path(__file__).with_name("floor.c")


class Pass(NamedTuple):
    """One pass of the floor, or one cycle of the agent.

    Attributes:
        cpu_ns: CPU time, user and system, of all threads.
        wall_ns: time that passed.
    """

    cpu_ns: int
    wall_ns: int


class Floor:
    """The compiled program at work; a context manager.

    Args:
        files: what one pass reads.
        namespaces: `/proc/PID/ns/net` of those whose sockets one pass dumps.
        directory: for the program and its lists.

    Raises:
        RuntimeError: there is no C compiler, or the program does not compile.
    """

    def __init__(self, files: Iterable[str], namespaces: Iterable[str], directory: Path) -> None:
        program = directory / "floor"
        _compile(program)
        lists = [directory / "files", directory / "namespaces"]
        for path, lines in zip(lists, (files, namespaces), strict=True):
            path.write_text("".join(f"{line}\n" for line in lines))
        self._process = subprocess.Popen(
            [program, *lists], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(self, order: Order) -> Pass:
        """One pass.

        Raises:
            RuntimeError: not everything on the list could be read: the comparison would not be fair.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the floor has no pipes")
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        cpu_ns, wall_ns, done, failed = map(int, self._process.stdout.readline().split())
        if failed:
            raise RuntimeError(f"cannot compare: the floor failed at {failed} of {done + failed} {order}")
        return Pass(cpu_ns, wall_ns)


def _compile(program: Path) -> None:
    if program.exists():
        return
    argv = ["cc", "-O2", "-Wall", "-o", str(program), str(_SOURCE)]
    try:
        made = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError(
            "cannot compile the floor: there is no C compiler; apt-get install gcc libc6-dev"
        ) from None
    if made.returncode:
        raise RuntimeError(f"cannot compile the floor: {made.stderr}")
