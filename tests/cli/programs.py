"""The program under test as real processes: the agent, and the receiver that it pushes to.

A receiver shows a push after it has answered it: what was pushed may be waited for, but is not there at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

AGENT = str(Path(sys.executable).with_name("falcon-agent"))
PATIENCE = 60.0


def broken(fault: str, gate: Path | str = "/nonexistent") -> tuple[str, ...]:
    """By what the agent is run with one part changed; see `brokenagent`."""
    return (sys.executable, str(Path(__file__).with_name("brokenagent.py")), fault, str(gate))


def environment(**settings: str) -> dict[str, str]:
    """The environment without any setting of the agent but those given, e.g. `AGENT__STEP="1"`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FALCON_AGENT__")}
    return clean | {f"FALCON_AGENT__{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def own_spool(settings: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The settings with a spool that nobody else uses, unless they name one."""
    with tempfile.TemporaryDirectory(prefix="falcon-agent-spool-") as directory:
        yield {"SPOOL__DIRECTORY": directory, **settings}


def falcon_agent(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_by((), *args, **settings)


def run_by(prefix: Sequence[str], *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end by way of another program, e.g. `nsenter --net=...`."""
    return subprocess.run(
        [*prefix, AGENT, *args],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def shown_on(screen: int, terminal: int) -> str:
    """All that was written to a pseudo-terminal, whose last user is the caller; closes it.

    The kernel hands it over a moment after it was written, and in parts (pty(7)).
    """
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end
        while part := os.read(screen, 65536):
            shown += part
    return shown.decode()


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for something that other processes bring about."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"waited {patience} s in vain for: {what}"
        time.sleep(0.02)


class Program:
    """A process whose output lines are collected while it runs."""

    def __init__(self, prefix: Sequence[str], *args: str, **settings: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, AGENT, *args],
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            # What a process that was killed has last written may be half a line.
            if line.endswith("\n"):
                lines.append(line[:-1])  # noqa: PERF401  seen by the test while the process still writes

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; returns the exit code and the seconds it took."""
        started = time.monotonic()
        self.send(number)
        code = self.process.wait(PATIENCE)
        took = time.monotonic() - started
        self._finish()
        return code, took

    def _finish(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self._finish()

    def said(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def stored(self) -> list[int]:
        """The timestamps that a `broken` agent has in its spool, or had; a second cycle of one is refused there."""
        said = [line.split() for line in list(self.lines)]
        return list(dict.fromkeys(int(words[1]) for words in said if words[0] == "stored"))


@contextlib.contextmanager
def program(*args: str, by: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """A command that runs during the block."""
    with own_spool(env or {}) as settings:
        running = Program(by, *args, **settings)
        try:
            yield running
        finally:
            running.kill()


class Receiver:
    """`falcon-agent receive --json` and what it got."""

    def __init__(self, running: Program, url: str) -> None:
        self._running = running
        self.url = url

    @property
    def arrivals(self) -> list[dict[str, Any]]:
        """One object per item: push, fate, why, item. Empty pushes, by which the agent asks the time, are left out."""
        arrivals = [json.loads(line) for line in list(self._running.lines)]
        return [arrival for arrival in arrivals if "item" in arrival]

    @property
    def items(self) -> list[dict[str, Any]]:
        return [arrival["item"] for arrival in self.arrivals]

    def values(self, metric: str, **tags: str) -> list[float]:
        wanted = {f"{key}={value}" for key, value in tags.items()}
        return [
            item["value"]
            for item in self.items
            if item["metric"] == metric and wanted <= set(item["tags"].split(","))
        ]


@contextlib.contextmanager
def receiver(port: int = 0, by: Sequence[str] = ()) -> Iterator[Receiver]:
    """A receiver on loopback that takes any step."""
    command = ("receive", "--json", "--min-step", "1", "--listen", f"127.0.0.1:{port}")
    with program(*command, by=by) as running:
        until(lambda: running.said("listening on"), "the receiver to listen")
        line = next(line for line in running.log if "listening on" in line)
        yield Receiver(running, line.split("listening on ")[1])


def settings_file(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a configuration; JSON values are TOML for what is used here."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")
    return str(path)
