"""`falcon-agent containers`: what was found, what was left out, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_config, add_json, add_roots, command, settings
from falcon_agent.cli.show import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from falcon_agent.cgroupfs import Cgroup
    from falcon_agent.collectors.network import NetworkCollector
    from falcon_agent.collectors.runner import Runner
    from falcon_agent.container import Container

_TEXT = """\
The containers that are measured: name, short id, runtime, pid, network namespace, host side of each veth pair, cgroup
version and path, pod; then interfaces without a host side, and why; then each container that is left out, and why; then
how each runtime answers."""
_EXAMPLES = """\
  falcon-agent containers
  falcon-agent containers --json | jq '.containers[] | {name, pid}'
  falcon-agent containers --proc /host/proc --sys /host/sys     in a container
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(
        commands, "containers", "list the containers found, and those left out", _TEXT, _EXAMPLES
    )
    add_config(parser)
    add_roots(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what discovery knows; exit code 1 if a runtime does not answer."""
    from falcon_agent.cli import FAILED  # noqa: PLC0415
    from falcon_agent.cli.choose import measuring  # noqa: PLC0415
    from falcon_agent.selfstat import SelfStat  # noqa: PLC0415

    with measuring(settings(args), SelfStat()) as (runner, inventory):
        rows = _rows(runner, inventory.snapshot())
        states = inventory.states()
        left_out = inventory.left_out()
    document: dict[str, Any] = {
        "containers": rows,
        "left_out": [
            {"name": one.name, "id": one.id, "runtime": one.runtime, "reason": one.reason} for one in left_out
        ],
        "runtimes": [
            {
                "name": state.name,
                "present": state.present,
                "ok": state.ok,
                "error": state.error,
                "containers": state.containers,
            }
            for state in states
        ],
    }
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0 if all(state.ok for state in states) else FAILED


def _rows(runner: Runner, found: list[Container]) -> list[dict[str, Any]]:
    from falcon_agent.collectors.network import NetworkCollector  # noqa: PLC0415

    network = next((one for one in runner.collectors if isinstance(one, NetworkCollector)), None)
    runner.measure(found, 0)
    return [_row(runner, network, container) for container in found if not container.pause]


def _row(runner: Runner, network: NetworkCollector | None, container: Container) -> dict[str, Any]:
    target = runner.target(container)
    cgroup: Cgroup | None = target.cgroup if target else None
    version, path = cgroup.describe() if cgroup else ("", "")
    # In a pod the interfaces are the pod's, with `container:ID` they are another container's.
    speaker = runner.speaker(container)
    known = (network.veths(speaker), network.unmapped(speaker)) if network and speaker else ({}, {})
    pod = container.pod
    return {
        "name": container.name,
        "id": container.short_id,
        "runtime": container.runtime,
        "pid": container.pid,
        "paused": container.paused,
        "netns": container.netns,
        "host_network": container.host_network,
        "veth": known[0],
        "unmapped": known[1],
        "cgroup_version": version,
        "cgroup": path,
        "pod": f"{pod.namespace}/{pod.name or pod.uid}".lstrip("/") if pod else None,
        "image": container.image,
    }


def _print(document: dict[str, Any]) -> None:
    if document["containers"]:
        print_table(
            ("NAME", "ID", "RUNTIME", "PID", "NETNS", "VETH", "CGROUP", "PATH", "POD"),
            (
                (
                    row["name"] + (" (paused)" if row["paused"] else ""),
                    row["id"],
                    row["runtime"],
                    str(row["pid"]),
                    "host" if row["host_network"] else str(row["netns"] or "unknown"),
                    ", ".join(f"{iface}={veth}" for iface, veth in row["veth"].items()) or "-",
                    row["cgroup_version"],
                    row["cgroup"],
                    row["pod"] or "-",
                )
                for row in document["containers"]
            ),
            right=(3,),
        )
    else:
        print("no containers are measured")
    unmapped = [
        (row["name"], iface or "all", reason)
        for row in document["containers"]
        for iface, reason in row["unmapped"].items()
    ]
    if unmapped:
        print_table(("NAME", "INTERFACE", "REASON"), unmapped, title="without a veth of this host")
    if document["left_out"]:
        print_table(
            ("NAME", "ID", "RUNTIME", "REASON"),
            ((one["name"], one["id"][:12], one["runtime"], one["reason"]) for one in document["left_out"]),
            title="left out",
        )
    print_table(
        ("RUNTIME", "STATE", "CONTAINERS"),
        (
            (one["name"], _state(one), str(one["containers"] if one["present"] else ""))
            for one in document["runtimes"]
        ),
        title="runtimes",
        right=(2,),
    )


def _state(runtime: dict[str, Any]) -> str:
    if not runtime["present"]:
        return "not on this host"
    return "answers" if runtime["ok"] else str(runtime["error"])
