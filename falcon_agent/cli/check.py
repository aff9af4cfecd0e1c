"""`falcon-agent check`: what will not work on this host, and why, in plain words."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TYPE_CHECKING

from falcon_agent.cli.finding import LEVELS, Finding, Level
from falcon_agent.cli.options import add_config, add_json, add_roots, command, settings
from falcon_agent.cli.privileges import privileges, runtime_advice
from falcon_agent.cli.service import find_service, show_unit
from falcon_agent.cli.show import print_json, print_marked
from falcon_agent.errors import ConfigError, FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.namespaces.credentials import take_on
from falcon_agent.procfs.capabilities import parse_credentials

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from falcon_agent.collectors.runner import Runner
    from falcon_agent.config import Settings
    from falcon_agent.container import Container
    from falcon_agent.discovery.inventory import Inventory

_TEXT = """\
Validate the configuration, reach every transfer (with an empty push) and every container runtime, measure each
container once, and say what will not work and why.

Root is told what the service can do: the check goes on as the user, in the groups and with the capabilities of the
agent that runs, or that falcon-agent.service would start. Its sandbox it cannot take on.

exit codes: 0 everything works; 1 it runs, but something will be missing; 2 it cannot do its work."""
_EXAMPLES = """\
  falcon-agent check
  falcon-agent check --as-me                         # what you can do, not the service
  falcon-agent check --config ./agent.toml --json
"""
_GRAPH_STEP = 30
_WORLD_READABLE = 0o004
_SHOWN = 3
_CYCLES_UNDER_WAY = 2
"""Cycles that may wait while all is well: one just measured, one being pushed."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "check", "say what will not work here, and why", _TEXT, _EXAMPLES)
    add_config(parser)
    add_roots(parser)
    add_json(parser)
    parser.add_argument(
        "--as-me", action="store_true", help="speak for the user who asks, not for the service"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings as they come; the exit code is the worst of them."""
    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            print_marked(finding.level, LEVELS[finding.level][1], f"{finding.subject}: {finding.text}")
    worst = max(LEVELS[finding.level][0] for finding in findings)
    if args.json:
        rows = [{"level": one.level, "subject": one.subject, "text": one.text} for one in findings]
        print_json({"exit": worst, "findings": rows})
    return worst


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    unit = show_unit()
    # Whoever is not root asks because a service cannot do what root can, or is about to set one up.
    as_service = unit is not None or os.geteuid() != 0
    try:
        chosen = settings(args)
        if os.geteuid() == 0 and not args.as_me:
            yield from _become_service(unit, chosen)
            # The service must be able to read it too, and the passwords that it names.
            chosen = settings(args)
        for target in chosen.transfer.targets:
            target.password()
    except ConfigError as error:
        yield Finding("fail", "configuration", str(error))
        return
    yield Finding("ok", "configuration", args.config or "defaults and environment")
    yield from _advice(chosen)
    yield from _transfers(chosen)
    yield from _spool(chosen)
    yield from _measuring(chosen, as_service=as_service)


def _become_service(unit: dict[str, str] | None, chosen: Settings) -> Iterator[Finding]:
    """Go on as the service, if there is one that is somebody else."""
    service = find_service(unit, chosen.spool.directory)
    own = parse_credentials(read_to_eof("/proc/self/status"))
    if service is None or (service.credentials.uid, service.credentials.mask) == (own.uid, own.mask):
        return
    wanted = service.credentials
    yield Finding(
        "note", "service", f"what follows is what {service.title} can do; --as-me shows what you can"
    )
    try:
        take_on(wanted.uid, wanted.gid, wanted.groups, wanted.mask & own.mask)
    except FalconAgentError as error:
        yield Finding("fail", "service", f"{error}; --as-me does without")


def _advice(chosen: Settings) -> Iterator[Finding]:
    """Settings that are allowed and still not what somebody wants."""
    step = chosen.agent.step
    if step < _GRAPH_STEP:
        yield Finding(
            "warn",
            "agent.step",
            f"{step} s is below {_GRAPH_STEP} s: graph raises it to {_GRAPH_STEP} s and drops points",
        )
    for path in dict.fromkeys(target.password_file for target in chosen.transfer.targets):
        if path and os.stat(path).st_mode & _WORLD_READABLE:
            yield Finding(
                "warn", "password_file", f"everybody on this host can read {path}; chmod 640 {path}"
            )
    if chosen.network.veth_tag:
        yield Finding("warn", "network.veth_tag", "every container made anew starts new network series")


def _transfers(chosen: Settings) -> Iterator[Finding]:
    """An empty push to each address; of the equals of a target one that works is enough to go on."""
    from falcon_agent.agent import build_transport  # noqa: PLC0415

    for target in chosen.transfer.targets:
        errors = []
        for address in target.addresses:
            try:
                reply = build_transport(target, [address]).post(b"[]")
            except FalconAgentError as error:
                errors.append(str(error))
            else:
                yield Finding("ok", "transfer", f"{address} answers in {reply.latency * 1000:.0f} ms")
        level: Level = "fail" if len(errors) == len(target.addresses) else "warn"
        for text in errors:
            yield Finding(level, "transfer", text)


def _spool(chosen: Settings) -> Iterator[Finding]:
    """Whether the spool can be used, what waits in it, and why it grows."""
    from falcon_agent.transfer.spoolstatus import inspect  # noqa: PLC0415

    directory = chosen.spool.directory
    place = directory
    while not os.path.exists(place):
        place = os.path.dirname(place)
    writable = os.access(place, os.W_OK | os.X_OK)
    if not writable:
        text = f"cannot write to {place}; records would wait in memory only, and be lost when the agent ends"
        yield Finding("warn", "spool", text)
    try:
        status = inspect(directory)
    except FalconAgentError as error:
        yield Finding("warn", "spool", str(error))
        return
    user = f"; the agent with pid {status.holder} uses it" if status.held else ""
    for target in status.targets:
        if target.timestamps <= _CYCLES_UNDER_WAY:
            continue
        seconds = target.timestamps * chosen.spool.pace
        since = datetime.fromtimestamp(target.oldest or 0).astimezone().isoformat(sep=" ", timespec="seconds")
        text = (
            f"{target.records} records of {target.timestamps} cycles wait for {target.name}, the oldest since {since}: "
            f"it did not take them (see transfer above); once it does, they take about {seconds:.0f} s"
        )
        yield Finding("warn", "spool", text)
    if writable:
        size = f"{status.file_bytes} bytes of at most {chosen.spool.max_bytes}"
        yield Finding("ok", "spool", f"{directory}, {size}{user}")


def _measuring(chosen: Settings, *, as_service: bool) -> Iterator[Finding]:
    """What each collector gets from the containers that run now."""
    from falcon_agent.cli.choose import measuring  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    try:
        with measuring(chosen, SelfStat()) as (runner, inventory):
            yield from privileges(runner.collectors, as_service=as_service)
            yield from _runtimes(inventory, chosen, as_service=as_service)
            found = inventory.snapshot()
            if not found:
                text = "none is running that is not left out, so nothing else could be tried"
                yield Finding("warn", "containers", text)
                return
            runner.measure(found, 0)
            time.sleep(1)
            measured = runner.measure(found, 0)
            records = {
                (container.key, record.metric) for container, record in measured if container is not None
            }
            yield Finding(
                "ok",
                "containers",
                f"{sum(not one.pause for one in found)} measured, {len(measured)} records in a cycle",
            )
            yield from _absences(runner, found, records)
    except FalconAgentError as error:
        yield Finding("fail", "cgroups", str(error))


def _runtimes(inventory: Inventory, chosen: Settings, *, as_service: bool) -> Iterator[Finding]:
    """How each runtime answers; while one does, the others' silence does not end the agent's work."""
    states = [state for state in inventory.states() if state.present]
    silence: Level = "warn" if any(state.ok for state in states) else "fail"
    for state in states:
        if state.ok:
            yield Finding("ok", f"runtime {state.name}", f"{state.containers} containers")
        else:
            advice = runtime_advice(state.name, _sockets(chosen, state.name)) if as_service else ""
            yield Finding(silence, f"runtime {state.name}", state.error + advice)
    left_out = inventory.left_out()
    if left_out:
        text = (
            f"{len(left_out)} left out or without a network of their own; `falcon-agent containers` says why"
        )
        yield Finding("note", "containers", text)


def _sockets(chosen: Settings, runtime: str) -> list[str]:
    """Where a runtime is asked, as far as that is a path."""
    from falcon_agent.discovery.engineapi import unix_path  # noqa: PLC0415
    from falcon_agent.discovery.sources import CRI_SOCKETS  # noqa: PLC0415

    discovery = chosen.discovery
    urls = {
        "docker": [discovery.docker],
        "podman": [discovery.podman],
        "cri": discovery.cri or CRI_SOCKETS,
    }.get(runtime, [])
    return [path for url in urls if (path := unix_path(url)) is not None]


def _absences(
    runner: Runner, found: Sequence[Container], reported: set[tuple[str, str]]
) -> Iterator[Finding]:
    """Metrics that a container should have and has not, by reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for container in found:
        target = runner.target(container)
        if target is None:
            continue
        speaks = runner.speaker(container) is target
        for collector in runner.collectors:
            if collector.scope == "host" or (collector.scope == "netns" and not speaks):
                continue
            if collector.scope == "container" and container.pause:
                continue
            for metric in collector.metrics:
                if (container.key, metric.name) not in reported:
                    reason = collector.absent(metric, target) or "no reason known"
                    reasons.setdefault((metric.name, reason), []).append(container.name)
    for (metric_name, reason), names in reasons.items():
        shown = ", ".join(names[:_SHOWN]) + (
            f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        )
        yield Finding("note", metric_name, f"absent for {shown}: {reason}")
