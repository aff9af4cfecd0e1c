"""`falcon-agent receive`: a transfer to try things out with."""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_json, command
from falcon_agent.cli.show import print_table, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from falcon_agent.transfer.receiver import Push
    from falcon_agent.transfer.verdict import Verdict

_TEXT = """\
Listen as an Open-Falcon transfer does, answer as it does, and show every item that arrives. Items that
transfer would count invalid, or that graph would drop or change without a word, are named with the reason.
Nothing is forwarded or stored. Takes /api/push, the official agent's /v1/push and Nightingale's
/openfalcon/push; GET and PUT as well as POST, as the real ones do.

Fates: ok; changed (stored, but not as sent, or it does harm); dropped (by graph); invalid (counted and
dropped by transfer); rejected (the whole POST was answered 400).
"""
_EXAMPLES = """\
  falcon-agent receive                               listen on 127.0.0.1:6060
  falcon-agent receive --json --count 1 | jq .       show one push as JSON and stop
  falcon-agent collect --json | curl -d @- http://127.0.0.1:6060/api/push
"""

_COLUMNS = ("FATE", "TIMESTAMP", "ENDPOINT", "METRIC", "VALUE", "STEP", "TYPE", "TAGS", "WHY")
_WIDTHS = (8, 10, 16, 34, 12, 4, 7, 28, 0)
_FIELDS = ("timestamp", "endpoint", "metric", "value", "step", "counterType", "tags")
_HIGHEST_PORT = 65535
_LONGEST_CELL = 300
_LONGEST_NESTED = 50_000
"""Characters of an item that is no ordinary record, in JSON output."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "receive", "a transfer to try things out with", _TEXT, _EXAMPLES)
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_host_and_port,
        default=("127.0.0.1", 6060),
        help="default 127.0.0.1:6060; port 0 takes a free one",
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="let --listen name an address that other hosts can reach"
    )
    parser.add_argument("--count", type=_positive, metavar="N", help="stop after N pushes")
    parser.add_argument(
        "--min-step",
        type=_positive,
        metavar="SECONDS",
        default=30,
        help="judge as if graph kept steps as short as this; the real one raises them to 30 (default)",
    )
    add_json(parser, "print one JSON object per item and line")
    parser.set_defaults(run=run)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port[:6]) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:6060 or [::1]:6060")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:9]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text[:9])


def run(args: argparse.Namespace) -> int:
    """Listen until a signal comes or enough pushes were seen.

    Raises:
        ReceiverError: the address cannot be listened on.
    """
    from falcon_agent.cli import UNUSABLE  # noqa: PLC0415
    from falcon_agent.transfer.receiver import Receiver  # noqa: PLC0415

    host, port = args.listen
    address = _resolve(host, port)
    if not (args.allow_remote or ipaddress.ip_address(address).is_loopback):
        print(
            f"falcon-agent: cannot listen on {host}: other hosts could push here, unasked who they are; use"
            " a loopback address such as 127.0.0.1, or add --allow-remote",
            file=sys.stderr,
        )
        return UNUSABLE
    seen: Counter[str] = Counter()

    def show(push: Push) -> None:
        seen["pushes"] += 1
        seen.update(verdict.outcome for _, verdict in push.items)
        _print_json(push, seen["pushes"]) if args.json else _print_lines(push)
        sys.stdout.flush()
        if seen["pushes"] == args.count:
            server.stopped.set()

    server = Receiver((address, port), show, min_step=args.min_step)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stopped.set())
    bound = f"[{address}]" if ":" in address else address
    print(f"listening on http://{bound}:{server.server_port}/api/push", file=sys.stderr, flush=True)
    try:
        server.serve_until_stopped()
    finally:
        print(_summary(seen), file=sys.stderr)
    return 0


def _resolve(host: str, port: int) -> str:
    """The numeric address to bind; what is checked is what is bound."""
    from falcon_agent.transfer.receiver import ReceiverError  # noqa: PLC0415

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise ReceiverError(f"cannot listen on {printable(host)}: {reason}") from None
    # IPv4 first: `localhost` is both, and most push scripts know only that one.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def _summary(seen: Mapping[str, int]) -> str:
    fates = [
        f"{seen[fate]} {fate}"
        for fate in ("ok", "changed", "dropped", "invalid", "rejected")
        if seen.get(fate)
    ]
    pushes = seen.get("pushes", 0)
    return f"{pushes} push{'' if pushes == 1 else 'es'}: {', '.join(fates) or 'no items'}"


def _print_lines(push: Push) -> None:
    """A line about the push and one per item; on a terminal a table."""
    head = f"{push.client} {push.method} {push.path}: {push.status} {push.answer.strip()}"
    rows = [_row(item, verdict) for item, verdict in push.items]
    if sys.stdout.isatty():
        print_table(_COLUMNS, rows, title=head)
        return
    print(_shown(head))
    for row in rows:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)).rstrip())


def _row(item: object, verdict: Verdict) -> tuple[str, ...]:
    why = "; ".join(verdict.reasons)
    if not isinstance(item, dict):
        return (verdict.outcome, "", "", _cell(item), "", "", "", "", why)
    return (verdict.outcome, *(_cell(item.get(name, "")) for name in _FIELDS), why)


def _cell(value: object) -> str:
    return _shown(value if isinstance(value, str) else _dump(value))


def _shown(text: str) -> str:
    """Foreign text on one line, bounded and without control characters."""
    return printable(text[:_LONGEST_CELL]) + ("…" if len(text) > _LONGEST_CELL else "")


def _dump(value: object) -> str:
    """As JSON in ASCII, where the value can be written as such."""
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        # 1e999 is read as infinity, which no JSON can say; it is reported as rejected.
        return json.dumps("a value that JSON cannot express")


def _print_json(push: Push, number: int) -> None:
    for line in _json_lines(push, number):
        print(line)


def _json_lines(push: Push, number: int) -> Iterator[str]:
    """One object per item; for a push without items one that says what was answered."""
    about: dict[str, Any] = {"push": number, "path": push.path[:_LONGEST_CELL], "status": push.status}
    if not push.items:
        yield _dump({**about, "answer": push.answer.strip()})
    for item, verdict in push.items:
        text = _dump(item)
        if len(text) > _LONGEST_NESTED:
            text = _dump(text[:_LONGEST_NESTED])
        # The item is JSON already; put in as text it need not be encoded twice.
        about_item = _dump({**about, "fate": verdict.outcome, "why": verdict.reasons})
        yield f'{about_item[:-1]}, "item": {text}}}'
