"""`falcon-agent collect`: one cycle, shown, and pushed unless that is not wanted."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from falcon_agent.cli.options import add_config, add_json, add_roots, command, settings
from falcon_agent.cli.show import amount, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from falcon_agent.collectors.runner import Measured
    from falcon_agent.config import Settings
    from falcon_agent.metric import Metric, Record
    from falcon_agent.selfstat import SelfStat

_TEXT = """\
Measure every container, show the numbers, and push them once. Rates need two samples; they are taken a second
apart. On a terminal the numbers come as tables; with --json, or into a pipe or file, as exactly the JSON array that is
pushed."""
_EXAMPLES = """\
  falcon-agent collect --dry-run                     look, send nothing
  falcon-agent collect --dry-run --container web     one container only
  falcon-agent collect --dry-run --json | jq '.[] | select(.metric == "container.cpu.busy")'
  falcon-agent collect --once                        push one cycle and show what the transfer answered
"""
_SAMPLE_SECONDS = 1.0
_MAX_SAMPLES = 3600


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "collect", "measure once, show it, and push it", _TEXT, _EXAMPLES)
    add_config(parser)
    add_roots(parser)
    parser.add_argument("--dry-run", action="store_true", help="push nothing")
    parser.add_argument(
        "--once", action="store_true", help="one cycle, the default; makes a script say what it does"
    )
    parser.add_argument("--container", metavar="NAME", help="only the container with this name or id")
    parser.add_argument(
        "--samples",
        metavar="N",
        type=_samples,
        default=2,
        help="samples to take, a second apart (default: 2)",
    )
    form = parser.add_mutually_exclusive_group()
    add_json(form, "print the JSON array that is pushed, also on a terminal")
    form.add_argument("--table", action="store_true", help="print tables, also into a pipe or file")
    parser.set_defaults(run=run)


def _samples(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_SAMPLES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_SAMPLES}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Measure, print, push."""
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    chosen = settings(args)
    stat = SelfStat()
    measured = _measure(chosen, stat, args.samples, args.container)
    if args.json or not (args.table or sys.stdout.isatty()):
        _print_json([record for _, record in measured])
    else:
        _print_tables(measured)
    return 0 if args.dry_run else _push([record for _, record in measured], chosen, stat)


def _measure(chosen: Settings, stat: SelfStat, samples: int, name: str | None) -> list[Measured]:
    """The last of several samples, of every container and the agent itself or of the named container only."""
    from falcon_agent.cli.choose import measuring, one_container, warn_about_runtimes  # noqa: PLC0415
    from falcon_agent.scheduler import floor_to_step  # noqa: PLC0415
    from falcon_agent.transfer.contract import takes  # noqa: PLC0415

    with measuring(chosen, stat) as (runner, inventory):
        warn_about_runtimes(inventory)
        if name is not None:
            one_container(inventory.snapshot(), name)
        measured: list[Measured] = []
        for number in range(samples):
            if number:
                time.sleep(_SAMPLE_SECONDS)
            measured = runner.measure(inventory.snapshot(), floor_to_step(time.time(), chosen.agent.step))
        if name is not None:
            # All are measured all the same: who speaks for a shared network namespace must not depend on the asker.
            container = one_container(inventory.snapshot(), name)
            speaker = runner.speaker(container)
            # What is said of its pod is said of it too.
            only = {container.key} | (
                {speaker.container.key} if speaker and speaker.container.pause else set()
            )
            measured = [item for item in measured if item[0] is not None and item[0].key in only]
    return [item for item in measured if takes(item[1], stat)]


def _print_json(records: Sequence[Record]) -> None:
    import orjson  # noqa: PLC0415

    sys.stdout.write(orjson.dumps(records).decode() + "\n")


def _print_tables(measured: Sequence[Measured]) -> None:
    from falcon_agent.collectors import catalogue  # noqa: PLC0415

    metrics = {metric.name: metric for _, metric in catalogue()}
    groups: dict[str, list[Measured]] = {}
    for item in measured:
        groups.setdefault(item[0].key if item[0] else "", []).append(item)
    own = groups.pop("", [])
    for items in (*groups.values(), own):
        if items:
            _print_group(items, metrics)
    if not groups:
        print("no containers found; `falcon-agent containers` says what was left out and why")


def _print_group(items: Sequence[Measured], metrics: Mapping[str, Metric]) -> None:
    """The table of one container, or of the agent itself."""
    shared = frozenset.intersection(*(frozenset(record.tags.split(",")) for _, record in items))
    rows = []
    for _, record in items:
        metric = metrics[record.metric]
        value = amount(record.value, metric.unit)
        extra = ",".join(tag for tag in record.tags.split(",") if tag not in shared)
        rows.append((record.metric, extra, f"{value} total" if metric.counter_type == "COUNTER" else value))
    container, record = items[0]
    if container is None:
        title = f"the agent on {record.endpoint}"
    else:
        what = "pod " if container.pause else ""
        title = f"{what}{container.name}  ({container.runtime} {container.short_id}, pid {container.pid})"
    print_table(("METRIC", "TAGS", "VALUE"), rows, title=title, right=(2,))


def _push(records: list[Record], chosen: Settings, stat: SelfStat) -> int:
    """Push the records once to every target and say on standard error what it answered."""
    from falcon_agent.agent import build_sender, build_transports  # noqa: PLC0415
    from falcon_agent.cli import FAILED  # noqa: PLC0415
    from falcon_agent.transfer.batches import make_batches  # noqa: PLC0415
    from falcon_agent.transfer.outbox import MAX_BODY_BYTES  # noqa: PLC0415
    from falcon_agent.transfer.queue import MemoryQueue  # noqa: PLC0415

    if not records:
        print("nothing to push", file=sys.stderr)
        return 0
    outcomes = []
    for name, transport in build_transports(chosen).items():
        queue = MemoryQueue(max(chosen.transfer.queue_bytes, 1024 * len(records)), stat)
        queue.put(make_batches(records, chosen.transfer.batch_size, MAX_BODY_BYTES))
        outcome = build_sender(chosen, name, transport, queue, stat).send_once()
        print(f"{name}: {outcome}", file=sys.stderr)
        outcomes.append(outcome)
    return 0 if all(outcomes) else FAILED
