"""`python -m tests.chaos`: breaks the agent for as long as you like, and prints what became of the promise."""

from __future__ import annotations

import argparse
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.chaos.faults import FAULTS
from tests.chaos.stage import container, perform

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.chaos.audit import Account


def main() -> int:
    """Run, and return 1 if the promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=10.0, help="rounds over all faults begin until then")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each fault lasts, about")
    parser.add_argument(
        "--jobs", type=int, default=5, help="faults at the same time, each with its own agent"
    )
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    options = parser.parse_args()
    # Wide enough for the table also where the output goes to a file.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(f"seed {options.seed}: " + ", ".join(options.faults))
    end = time.monotonic() + options.minutes * 60
    results: list[tuple[str, int, Account]] = []
    with container():
        seed = options.seed
        while not results or time.monotonic() < end:
            results += _round(console, options.faults, seed, options.seconds, options.jobs)
            seed += 1
    console.print(_table(results))
    broken = [(name, seed, account) for name, seed, account in results if account.faults]
    for name, seed, account in broken:
        console.rule(f"{name}, seed {seed}")
        console.print("\n".join(account.faults), markup=False, highlight=False, soft_wrap=True)
    return 1 if broken else 0


def _round(
    console: Console, names: list[str], seed: int, seconds: float, jobs: int
) -> list[tuple[str, int, Account]]:
    """Every fault once, several at a time."""
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[Account], str] = {
            pool.submit(perform, name, FAULTS[name], seed, seconds): name for name in names
        }
        for done in as_completed(running):
            account = done.result()
            console.print(f"  seed {seed}  {running[done]:14}  {_verdict(account)}")
            results.append((running[done], seed, account))
    return results


def _verdict(account: Account) -> str:
    return "[red]BROKEN[/red]: " + account.faults[0] if account.faults else "[green]kept[/green]"


def _table(results: list[tuple[str, int, Account]]) -> Table:
    """One line per fault, over all rounds."""
    table = Table(title="produced = accepted + lost, in order, not from the future")
    for column in ("fault", "runs", "cycles", "produced", "accepted", "duplicates", "lost, by reason"):
        table.add_column(column, justify="left" if column in {"fault", "lost, by reason"} else "right")
    for column in ("set aside", "out of order", "future", "verdict"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(name for name, _, _ in sorted(results, key=_position)):
        accounts = [account for other, _, account in results if other == name]
        lost: dict[str, int] = {}
        for account in accounts:
            for reason, records in account.lost.items():
                lost[reason] = lost.get(reason, 0) + records
        numbers = [
            sum(getattr(account, field) for account in accounts)
            for field in ("cycles", "produced", "accepted", "duplicates")
        ]
        rest = [
            sum(getattr(account, field) for account in accounts)
            for field in ("set_aside", "out_of_order", "future")
        ]
        broken = sum(bool(account.faults) for account in accounts)
        table.add_row(
            name,
            str(len(accounts)),
            *map(str, numbers),
            ", ".join(f"{reason} {records}" for reason, records in sorted(lost.items())) or "0",
            *map(str, rest),
            f"[red]{broken} broken[/red]" if broken else "[green]kept[/green]",
        )
    return table


def _position(result: tuple[str, int, Account]) -> int:
    return list(FAULTS).index(result[0])


if __name__ == "__main__":
    sys.exit(main())
