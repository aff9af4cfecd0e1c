"""`falcon-agent explain CONTAINER METRIC`: where a number comes from, or why there is none."""

from __future__ import annotations

import difflib
import time
from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_config, add_json, add_roots, command, settings
from falcon_agent.cli.show import amount, print_json, printable
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import recording

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from falcon_agent.collectors.base import Collector, Target
    from falcon_agent.collectors.runner import Runner
    from falcon_agent.container import Container
    from falcon_agent.metric import Metric, Source

_TEXT = """\
Measure one container now, twice a second apart, and show for one metric the files and lines that were read, the
formula and the value; or why there is none."""
_EXAMPLES = """\
  falcon-agent explain web container.cpu.busy
  falcon-agent explain web container.tcp.orphan
  falcon-agent explain 3f2a91 container.net.if.in.bytes --json
"""
_SAMPLE_SECONDS = 1.0
_MAX_LINES = 40


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "explain", "show where a number comes from", _TEXT, _EXAMPLES)
    parser.add_argument("container", metavar="CONTAINER", help="name, or beginning of the id")
    parser.add_argument("metric", metavar="METRIC", help="as `falcon-agent metrics` lists it")
    add_config(parser)
    add_roots(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain; exit code 1 if there is no value."""
    from falcon_agent.cli import FAILED  # noqa: PLC0415
    from falcon_agent.cli.choose import measuring, one_container, warn_about_runtimes  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    with measuring(settings(args), SelfStat()) as (runner, inventory):
        collector, metric = _metric(runner, args.metric)
        warn_about_runtimes(inventory)
        everyone = inventory.snapshot()
        container = one_container(everyone, args.container)
        document = _explain(runner, collector, metric, container, everyone)
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0 if document["values"] else FAILED


def _metric(runner: Runner, name: str) -> tuple[Collector, Metric]:
    """The collector and the declaration of a metric.

    Raises:
        FalconAgentError: there is no such metric, or its collector is off.
    """
    from falcon_agent.collectors import catalogue  # noqa: PLC0415

    for collector in runner.collectors:
        for metric in collector.metrics:
            if metric.name == name and collector.scope == "host":
                raise FalconAgentError(f"cannot explain {name}: it is about the host, not about a container")
            if metric.name == name:
                return collector, metric
    known = {metric.name: collector for collector, metric in catalogue()}
    if name in known:
        raise FalconAgentError(
            f"cannot explain {name}: collector {known[name]!r} is not in [collectors] enabled of the configuration"
        )
    close = difflib.get_close_matches(name, known, 3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`falcon-agent metrics` lists them all"
    raise FalconAgentError(f"cannot explain {name!r}: no container has such a metric; {hint}")


def _explain(
    runner: Runner, collector: Collector, metric: Metric, container: Container, everyone: list[Container]
) -> dict[str, Any]:
    """Everything known about one number, as the JSON document of `--json`."""
    document: dict[str, Any] = {
        "container": container.name,
        "of_pod": None,
        "metric": metric.name,
        "counterType": metric.counter_type,
        "unit": metric.unit,
        "help": metric.help,
        "formula": metric.formula,
        "values": [],
        "reads": [],
        "reason": None,
    }
    runner.measure(everyone, 0)
    target = runner.target(container)
    if target is None:
        document["reason"] = "the container ended before it could be measured"
        return document
    if collector.scope == "netns":
        speaker = runner.speaker(container)
        if speaker is None:
            document["reason"] = (
                "it uses the host's network: the sockets and interfaces there are not its own"
            )
            return document
        if speaker.container.pause:
            document["of_pod"] = speaker.container.name
            target = speaker
        elif speaker is not target:
            name = speaker.container.name
            document["reason"] = (
                f"it shares the network namespace of {name!r}, under whose name it is reported"
            )
            return document
    _measure_twice(collector, metric, target, document)
    return document


def _measure_twice(collector: Collector, metric: Metric, target: Target, document: dict[str, Any]) -> None:
    """Fill in `values` and `reads`, or `reason`."""
    try:
        with recording() as before:
            collector.begin([target])
            list(collector.collect(target))
        time.sleep(_SAMPLE_SECONDS)
        with recording() as now:
            collector.begin([target])
            samples = list(collector.collect(target))
    except FalconAgentError as error:
        document["reason"] = str(error)
        return
    document["reads"] = _relevant(metric.sources, dict(before), dict(now))
    document["values"] = [
        {"value": value, "tags": ",".join(f"{key}={text}" for key, text in tags)}
        for found, value, tags in samples
        if found is metric
    ]
    if not document["values"]:
        reason = collector.absent(metric, target)
        document["reason"] = reason or "nothing was measured; `falcon-agent check` may say why"


def _relevant(
    sources: Sequence[Source], before: Mapping[str, bytes], now: Mapping[str, bytes]
) -> list[dict[str, Any]]:
    """The recorded files that the metric's sources name, with their lines now and, where they differ, before."""
    reads = []
    for path, content in now.items():
        # A netlink answer's "path" begins with the name of the request and goes on with what it was about.
        keys = [
            source.keys
            for source in sources
            if path.endswith("/" + source.file) or path.startswith(source.file)
        ]
        if not keys:
            continue
        wanted = () if () in keys else tuple(key for group in keys for key in group)
        lines = _lines(content, wanted)
        if not lines and wanted:
            continue
        earlier = _lines(before.get(path, b""), wanted)
        reads.append({"file": path, "before": earlier if earlier != lines else None, "now": lines})
    return reads


def _lines(content: bytes, keys: Sequence[str]) -> list[str]:
    lines = content.decode(errors="backslashreplace").splitlines()
    if keys:
        lines = [line for line in lines if line.lstrip().startswith(tuple(keys))]
    return [line.strip() for line in lines[:_MAX_LINES]]


def _print(document: dict[str, Any]) -> None:
    pod = f"the pod {document['of_pod']}, in which " if document["of_pod"] else ""
    whose = f"{pod}{document['container']}" + (" is" if pod else "")
    print(f"{document['metric']} of {printable(whose)}: {document['help']}")
    for value in document["values"]:
        tags = f"  ({printable(value['tags'])})" if value["tags"] else ""
        total = " total" if document["counterType"] == "COUNTER" else ""
        print(f"\nvalue    {amount(value['value'], document['unit'])}{total}{tags}")
    if document["reason"]:
        print(f"\nno value: {document['reason']}")
    print(f"formula  {document['formula']}")
    for read in document["reads"]:
        print(f"\n{printable(read['file'])}")
        if read["before"] is not None:
            for line in read["before"]:
                print(f"  {_SAMPLE_SECONDS:g} s ago  {printable(line)}")
        for line in read["now"]:
            print(f"  now      {printable(line)}")
