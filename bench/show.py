"""Figures as tables."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.report import median_ms, min_ms, table

if TYPE_CHECKING:
    from collections.abc import Mapping

Figures: TypeAlias = dict[str, Any]

CADVISOR = 2150 / 32
"""CPU of cAdvisor with TCP counts for 300 containers, as multiples of the C floor; docs/performance.md."""

_PASSES = {
    "floor.files": "C: open, read to the end, close",
    "floor.kept": "C: pread of kept descriptors",
    "floor.dumps": "C: enter, dump sockets, go home",
    "floor.held": "C: dump by sockets kept inside",
    "agent": "agent, measured collectors",
    "agent.busy": "agent, both cores busy",
    "agent.sockets": "agent, sockets only",
    "agent.unconnected": "agent, sockets only, less those with connections",
    "agent.defaults": "agent, all default collectors",
}


def cycle_tables(figures: Figures, words: str = "") -> str:
    """What `bench.cycle` found, as text; `words` say more of the containers."""
    containers = figures["containers"]
    cpu = figures["cpu_ns"]
    rows = [
        (
            what,
            f"{median_ms(cpu[name]):.2f}",
            f"{min_ms(cpu[name]):.2f}",
            f"{median_ms(cpu[name]) * 1000 / containers:.1f}",
            f"{_to_floor(figures, name):.2f}",
            f"{median_ms(figures['wall_ns'][name]):.2f}",
        )
        for name, what in _PASSES.items()
        if name in cpu
    ]
    title = (
        f"One steady cycle: {containers} containers{words}, {figures['files']} files,"
        f" {figures['namespaces']} namespaces with TCP sockets, {len(cpu['agent'])} rounds"
    )
    text = table(title, ("CPU, ms", "median", "min", "us/cont.", "ratio", "wall"), rows)
    for name, spent in figures["collectors_ms"].items():
        text += "\n" + _collectors(name, spent, containers, cpu)
    calls = {name: count for name, count in figures["calls"].items() if count * 10 >= containers}
    per = (
        (name, f"{count / containers:.2f}")
        for name, count in sorted(calls.items(), key=lambda item: -item[1])
    )
    text += "\n" + table("System calls per container", ("call", "number"), per)
    kinds = ((kind, str(count)) for kind, count in figures["kinds"].items() if count * 10 >= containers)
    return text + "\n" + table("Files read, by kind", ("file", "number"), kinds)


def linear_table(figures: Figures) -> str:
    """What `bench.linear` found, as text."""
    sizes = figures["sizes"]
    per = {size: median_ms(figures["cpu_ns"][str(size)]) * 1000 / size for size in sizes}
    best = {size: min_ms(figures["cpu_ns"][str(size)]) * 1000 / size for size in sizes}
    rows = [
        (str(size), f"{per[size]:.1f}", f"{best[size]:.1f}", f"{per[size] / per[sizes[0]]:.3f}")
        for size in sizes
    ]
    rows += [(size, "fails", "", "") for size in figures["left_out"]]
    text = table("Copied trees: CPU of a steady cycle", ("containers", "us/cont.", "min", "ratio"), rows)
    return text + "".join(f"\n  {size}: {why}" for size, why in figures["left_out"].items())


def daemon_tables(figures: Figures) -> str:
    """What was seen of the daemon, as text."""
    memory = figures["memory"]
    first = figures["first_push_seconds"]
    rows = [
        ("start to first push, s", ", ".join(f"{seconds:.2f}" for seconds in sorted(first))),
        ("RSS, MB", f"{memory['rss'] / 1024:.1f}"),
        ("PSS, MB", f"{memory['pss'] / 1024:.1f}"),
        ("threads", str(memory["threads"])),
        ("descriptors", str(memory["descriptors"])),
        ("records in a cycle", str(figures["records_per_cycle"])),
        ("CPU of a cycle with its delivery, ms", f"{figures['cpu_ns_per_cycle'] / 1e6:.1f}"),
        ("context switches in it", f"{figures['switches_per_cycle']:.0f}"),
    ]
    title = f"The daemon, all default collectors, {figures['cycles']} cycles a second apart"
    text = table(title, ("what", "figure"), rows)
    wakeups = figures["idle_wakeups"]
    idle = [(name, str(count)) for name, count in sorted(wakeups.items(), key=lambda item: -item[1])]
    title = f"Wake-ups in {figures['idle_seconds']:.0f} s between two cycles (step 60)"
    return text + "\n" + table(title, ("thread", "number"), [*idle, ("all", str(sum(wakeups.values())))])


def goals_table(figures: Figures) -> str:
    """Each goal, what was measured, and the limit."""
    quiet, connected, daemon = figures["quiet"], figures["connected"], figures["daemon"]

    sizes = figures["linear"]["sizes"]
    per = [median_ms(figures["linear"]["cpu_ns"][str(size)]) / size for size in sizes]
    busy = median(
        wall / cpu
        for wall, cpu in zip(quiet["wall_ns"]["agent.busy"], quiet["cpu_ns"]["agent.busy"], strict=True)
    )
    rows = [
        (
            "cycle / C floor of the same files",
            f"{_to_floor(quiet, 'agent'):.2f}",
            "1.0 (0.6)",
        ),
        ("socket dumps / C entering and dumping", f"{_dumps_to(connected, 'floor.dumps'):.2f}", "1.3"),
        ("socket dumps / C by sockets kept inside", f"{_dumps_to(connected, 'floor.held'):.2f}", ""),
        (
            "cycle with connections / C floor of the files; a 20th of cAdvisor with TCP",
            f"{_to_floor(connected, 'agent'):.2f}",
            f"{CADVISOR / 20:.2f}",
        ),
        ("RSS, MB", f"{daemon['memory']['rss'] / 1024:.1f}", "40"),
        *(
            (f"a container among {size} / among {sizes[0]}, copied trees", f"{one / per[0]:.2f}", "1.10")
            for size, one in zip(sizes[1:], per[1:], strict=True)
        ),
        *(
            (f"a container among {size} copied trees", "fails", "1.10")
            for size in figures["linear"]["left_out"]
        ),
        ("start to first push, s", f"{median(daemon['first_push_seconds']):.2f}", "1"),
        (
            "wake-ups a minute",
            f"{sum(daemon['idle_wakeups'].values()) / daemon['idle_seconds'] * 60:.0f}",
            "",
        ),
        ("wall / CPU of a cycle, every core busy", f"{busy:.2f}", "3"),
    ]
    if "few" in figures:
        few = figures["few"]
        # Measured minutes apart: each is held against the floor of its own minute, which is linear by nature.
        ratio = _to_floor(quiet, "agent") / _to_floor(few, "agent")
        rows.insert(
            5,
            (f"a container among {quiet['containers']} / among {few['containers']}", f"{ratio:.2f}", "1.10"),
        )
    return table("Goals", ("what", "measured", "limit"), rows)


def _to_floor(figures: Figures, name: str) -> float:
    """CPU of a pass as a multiple of the floor's, the median over the rounds: processors have phases of seconds."""
    cpu = figures["cpu_ns"]
    ratio: float = median(one / floor for one, floor in zip(cpu[name], cpu["floor.files"], strict=True))
    return ratio


def _dumps_to(figures: Figures, name: str) -> float:
    """CPU of the agent's dumps as a multiple of the same dumps by a pass in C; likewise.

    What the others take for each container is what those with connections take beside their dumps.
    """
    cpu = figures["cpu_ns"]
    more = figures["containers"] / figures["unconnected"]
    ratio: float = median(
        (one - others * more) / floor
        for one, others, floor in zip(cpu["agent.sockets"], cpu["agent.unconnected"], cpu[name], strict=True)
    )
    return ratio


def _collectors(name: str, spent: Mapping[str, float], containers: int, cpu: Mapping[str, list[int]]) -> str:
    whole = median_ms(cpu[name])
    rows = [(collector, f"{ms:.2f}", f"{ms * 1000 / containers:.1f}") for collector, ms in spent.items()]
    rest = whole - sum(spent.values())
    rows.append(("rest: records, packing, spool, helpers", f"{rest:.2f}", f"{rest * 1000 / containers:.1f}"))
    return table(f"{_PASSES[name]}: CPU of the cycle's thread", ("collector", "ms", "us/cont."), rows)
