"""`falcon-agent spool`: what waits for delivery, and what to do with it."""

from __future__ import annotations

import json
import os
import sys
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_config, add_json, command, settings
from falcon_agent.cli.show import amount, print_json, print_table, printable
from falcon_agent.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from falcon_agent.config import Settings
    from falcon_agent.transfer.sender import Sender, Summary
    from falcon_agent.transfer.spool import DiskSpool
    from falcon_agent.transfer.spoolfile import SpoolFile
    from falcon_agent.transfer.spoolstatus import SpoolStatus, TargetStatus

_TEXT = """\
Show what waits on disk for delivery, print it, deliver it now, or throw it away. status and export work while an
agent runs; drain and drop need it stopped."""
_EXAMPLES = """\
  falcon-agent spool status                          how much waits, and how long it will take
  falcon-agent spool export --target default         the waiting POST bodies, one JSON array per line
  falcon-agent spool export --dead | jq .            the records that a target refused, and why
  falcon-agent spool drain                           deliver everything now, without an agent
  falcon-agent spool drop --before 1795161720 --yes  throw away what is older
"""
_LOOK = 0.2
_LINE = 5.0
"""Seconds between two looks at the progress, and between two lines where there is no terminal."""

_MINUTE = 60
_HOUR = 3600


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and what it can do."""
    parser = command(commands, "spool", "show, print, deliver or drop what waits on disk", _TEXT, _EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="what waits for each target, and how long it will take")
    status.set_defaults(run=_status)
    export = actions.add_parser("export", help="print what waits, a POST body per line, oldest first")
    export.add_argument("--dead", action="store_true", help="print the records that were refused instead")
    export.add_argument("--target", metavar="NAME", help="only what waits for this target")
    export.set_defaults(run=_export)
    drain = actions.add_parser("drain", help="deliver everything that waits, now")
    drain.set_defaults(run=_drain)
    drop = actions.add_parser("drop", help="throw away what waits")
    drop.add_argument(
        "--before", metavar="TIMESTAMP", type=int, help="only what is older (seconds since 1970)"
    )
    drop.add_argument("--target", metavar="NAME", help="only for this target")
    drop.add_argument("--dead", action="store_true", help="the records that were refused, not what waits")
    drop.add_argument("--all", action="store_true", help="everything, the refused records too")
    drop.add_argument("--yes", action="store_true", help="do not ask")
    drop.set_defaults(run=_drop)
    for action in (status, export, drain, drop):
        add_config(action)
    for action in (status, drain, drop):
        add_json(action)
    export.add_argument("--json", action="store_true", help="as it is without: the output is JSON already")


# status


def _status(args: argparse.Namespace) -> int:
    from falcon_agent.transfer.spoolstatus import inspect  # noqa: PLC0415

    chosen = settings(args)
    found = inspect(chosen.spool.directory)
    if args.json:
        print_json(_as_json(chosen, found))
        return 0
    print(f"{chosen.spool.directory}: {amount(found.file_bytes, 'bytes')}, {_user_of(found)}")
    if not found.targets:
        print("nothing was ever put into it")
        return 0
    headers = ("TARGET", "RECORDS", "SIZE", "OLDEST", "NEWEST", "DELIVERED TO", "EMPTY IN", "REFUSED", "LOST")
    rows = [_row(target, _pace(chosen)) for target in found.targets]
    print_table(headers, rows, right=(1, 2, 6, 7))
    return 0


def _pace(chosen: Settings) -> float:
    """Seconds that each waiting timestamp takes; see `agent.build_sender`."""
    return min(chosen.spool.pace, chosen.agent.step / 2)


def _user_of(found: SpoolStatus) -> str:
    if not found.held:
        return "no agent uses it"
    return "an agent uses it" if found.holder is None else f"the agent with pid {found.holder} uses it"


def _row(target: TargetStatus, pace: float) -> tuple[str, ...]:
    return (
        target.name,
        f"{target.records:,}",
        amount(target.size, "bytes"),
        _when(target.oldest),
        _when(target.newest),
        _when(target.taken),
        _duration(target.timestamps * pace),
        f"{target.dead:,}",
        ", ".join(f"{records:,} {reason}" for reason, records in target.lost.items()) or "none",
    )


def _as_json(chosen: Settings, found: SpoolStatus) -> dict[str, Any]:
    return {
        "directory": chosen.spool.directory,
        "held": found.held,
        "pid": found.holder,
        "file_bytes": found.file_bytes,
        "targets": [
            {
                "name": target.name,
                "records": target.records,
                "bytes": target.size,
                "oldest": target.oldest,
                "newest": target.newest,
                "delivered_to": target.taken,
                "timestamps": target.timestamps,
                "seconds_left": target.timestamps * _pace(chosen),
                "refused": target.dead,
                "lost": dict(target.lost),
            }
            for target in found.targets
        ],
    }


def _when(timestamp: int | None) -> str:
    if timestamp is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp))
    except (OverflowError, ValueError, OSError):
        return str(timestamp)


def _duration(seconds: float) -> str:
    """As people say it: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


# export


def _export(args: argparse.Namespace) -> int:
    from falcon_agent.transfer.spoolfile import DATABASE, SpoolFile  # noqa: PLC0415

    directory = settings(args).spool.directory
    if not os.path.exists(os.path.join(directory, DATABASE)):
        return 0
    file = SpoolFile(directory, writable=False)
    try:
        for line in _dead_lines(file, args.target) if args.dead else _bodies(file, args.target):
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    finally:
        file.close()
    return 0


def _dead_lines(file: SpoolFile, target: str | None) -> Iterator[bytes]:
    for name, reason, when, item in file.dead(target):
        head = json.dumps({"target": name, "reason": reason, "time": when})
        yield head[:-1].encode() + b', "item": ' + item + b"}"


def _bodies(file: SpoolFile, target: str | None) -> Iterator[bytes]:
    """One at a time and not in one reading, which would keep the agent's log from being moved into the database."""
    cursors = file.cursors()
    if target is not None:
        _check_target(target, list(cursors))
        cursors = {target: cursors[target]}
    after = min((cursor.acked for cursor in cursors.values()), default=0)
    while (row := file.follow(after)) is not None:
        after = row.id
        yield row.batch().body


def _check_target(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"cannot find target {printable(name)}: the spool knows {', '.join(known) or 'none'}"
        )


# drain


def _drain(args: argparse.Namespace) -> int:
    from falcon_agent.agent import build_sender, build_transports  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    chosen = settings(args)
    transports = build_transports(chosen)
    stat = SelfStat()
    spool = _open(chosen, list(transports), stat)
    if spool is None:
        _tell(args, {"targets": [], "interrupted": False}, "nothing waits")
        return 0
    try:
        senders = {
            name: build_sender(chosen, name, transport, spool.queue(name), stat)
            for name, transport in transports.items()
        }
        summaries, interrupted = _send(spool, senders, quiet=args.json)
        rows = [
            {
                "name": name,
                "sent": summary.sent,
                "refused": summary.invalid,
                "left": summary.left,
                "error": None if summary.error is None else str(summary.error),
            }
            for name, summary in summaries.items()
        ]
    finally:
        spool.close()
    text = "\n".join(f"{name}: {summary}" for name, summary in summaries.items())
    _tell(args, {"targets": rows, "interrupted": interrupted}, text)
    if interrupted:
        return 128 + 2
    return 0 if len(summaries) == len(senders) and all(summaries.values()) else 1


def _open(chosen: Settings, targets: Sequence[str], stat: Any) -> DiskSpool | None:
    """The spool, held by this process, or None if there is none."""
    from falcon_agent.transfer.spool import DiskSpool, SpoolError  # noqa: PLC0415
    from falcon_agent.transfer.spoolfile import DATABASE  # noqa: PLC0415

    if not os.path.exists(os.path.join(chosen.spool.directory, DATABASE)):
        return None
    spool = DiskSpool(
        chosen.spool.directory,
        targets,
        stat,
        max_bytes=chosen.spool.max_bytes,
        max_age=chosen.spool.max_age,
    )
    trouble = spool.status().trouble
    if trouble:
        spool.close()
        raise SpoolError(trouble)
    return spool


def _send(spool: DiskSpool, senders: dict[str, Sender], *, quiet: bool) -> tuple[dict[str, Summary], bool]:
    """Send to all targets at once; returns what became of each, and whether a person ended it."""
    summaries: dict[str, Summary] = {}

    def work(name: str) -> None:
        summaries[name] = senders[name].send_once()

    threads = [Thread(target=work, args=(name,), daemon=True) for name in senders]
    waiting = {name: spool.queue(name).records for name in senders}
    interrupted = False
    for thread in threads:
        thread.start()
    try:
        for _ in _progress(spool, waiting, quiet=quiet):
            if not any(thread.is_alive() for thread in threads):
                break
    except KeyboardInterrupt:
        # What was not acknowledged stays in the spool.
        interrupted = True
        for sender in senders.values():
            sender.pause()
    for thread in threads:
        thread.join(_LINE)
    return summaries, interrupted


def _progress(spool: DiskSpool, waiting: dict[str, int], *, quiet: bool) -> Iterator[None]:
    """Show how far it is, for ever: bars on a terminal, a line now and then elsewhere."""
    if quiet or not sys.stderr.isatty():
        shown = time.monotonic()
        while True:
            yield
            time.sleep(_LOOK)
            if not quiet and time.monotonic() - shown > _LINE:
                shown = time.monotonic()
                for name, records in waiting.items():
                    left = spool.queue(name).records
                    print(f"{name}: {records - left} of {records} records", file=sys.stderr, flush=True)
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True)) as bars:
        tasks = {name: bars.add_task(name, total=records) for name, records in waiting.items()}
        while True:
            yield
            time.sleep(_LOOK)
            for name, task in tasks.items():
                bars.update(task, completed=waiting[name] - spool.queue(name).records)


# drop


def _drop(args: argparse.Namespace) -> int:
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415
    from falcon_agent.transfer.spoolstatus import inspect  # noqa: PLC0415

    if args.before is None and args.target is None and not args.dead and not args.all:
        raise ConfigError("cannot drop: say what with --before, --target, --dead or --all")
    if args.dead and args.before is not None:
        raise ConfigError("cannot drop: --before is about what waits and --dead about what was refused")
    chosen = settings(args)
    names = [target.name for target in inspect(chosen.spool.directory).targets]
    if args.target is not None:
        _check_target(args.target, names)
    if not args.yes:
        _ask(args)
    spool = _open(chosen, names, SelfStat())
    waiting = refused = 0
    if spool is not None:
        try:
            if not args.dead or args.all:
                waiting = spool.discard(args.before, args.target)
            if args.dead or args.all:
                refused = spool.forget_dead(args.target)
        finally:
            spool.close()
    _tell(
        args,
        {"dropped": waiting, "refused_dropped": refused},
        f"dropped {waiting} waiting and {refused} refused records",
    )
    return 0


def _ask(args: argparse.Namespace) -> None:
    """Have a person confirm.

    Raises:
        ConfigError: there is none, or the answer is not yes.
    """
    if not sys.stdin.isatty():
        raise ConfigError("cannot ask whether to drop: standard input is no terminal; use --yes")
    what = "the refused records" if args.dead and not args.all else "what waits"
    if args.before is not None:
        what += f" from before {_when(args.before)}"
    if args.target is not None:
        what += f" for {printable(args.target)}"
    print(f"drop {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise ConfigError("cannot drop: not confirmed")


def _tell(args: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    if args.json:
        print_json(value)
    else:
        print(text)
