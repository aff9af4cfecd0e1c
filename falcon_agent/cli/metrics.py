"""`falcon-agent metrics`: the catalogue."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from falcon_agent.cli.options import add_json, command
from falcon_agent.cli.show import print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from falcon_agent.metric import Metric

_TEXT = (
    "Every metric this agent can send: name, counterType, unit, meaning, and the kernel file it is read from."
)
_EXAMPLES = """\
  falcon-agent metrics
  falcon-agent metrics --json | jq -r '.[].name'
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "metrics", "list every metric and where it comes from", _TEXT, _EXAMPLES)
    form = parser.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--markdown", action="store_true", help="print docs/metrics.md")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the catalogue."""
    from falcon_agent.collectors import catalogue  # noqa: PLC0415

    rows = list(catalogue())
    if args.json:
        print_json([_row(collector, metric) for collector, metric in rows])
    elif args.markdown:
        print("\n".join(markdown(rows)))
    else:
        print_table(
            ("METRIC", "TYPE", "UNIT", "MEANING", "SOURCE"),
            ((m.name, m.counter_type, m.unit, m.help, "; ".join(map(str, m.sources))) for _, m in rows),
        )
    return 0


def _row(collector: str, metric: Metric) -> dict[str, object]:
    return {
        "name": metric.name,
        "collector": collector,
        "counterType": metric.counter_type,
        "unit": metric.unit,
        "help": metric.help,
        "formula": metric.formula,
        "sources": [str(source) for source in metric.sources],
        "tags": list(metric.tags),
        "needs": metric.needs,
    }


def markdown(rows: list[tuple[str, Metric]]) -> Iterator[str]:
    """The lines of docs/metrics.md."""
    from falcon_agent.collectors import DEFAULTS, about  # noqa: PLC0415

    yield "# Metrics"
    yield ""
    yield "Made by `make docs` from the code; `falcon-agent metrics` prints the same. Container records carry `name=`,"
    yield "and `pod=` and `namespace=` under Kubernetes. What is not known is not sent: never 0 or -1 for it."
    for collector, group in groupby(rows, key=lambda row: row[0]):
        yield ""
        off = "" if collector in DEFAULTS or collector == "agent" else " (off by default)"
        yield f"## {collector}{off}"
        yield ""
        yield from about(collector).splitlines()
        yield ""
        yield "| metric | type | unit | meaning | formula | source | tags | needs |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        for _, metric in group:
            cells = (
                f"`{metric.name}`",
                metric.counter_type,
                metric.unit,
                metric.help,
                metric.formula,
                "; ".join(f"`{source}`" for source in metric.sources),
                ", ".join(f"`{tag}=`" for tag in metric.tags),
                metric.needs,
            )
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
