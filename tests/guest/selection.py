"""Which tests run in the guest, which do not, and why not."""

from __future__ import annotations

from dataclasses import dataclass

_REAL = ("-m", "real or guest")
"""What needs no kernel of another kind has been tested outside."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What runs in one layout.

    Attributes:
        paths: files and directories; of these, what is marked `real` or `guest`.
        without: tests left out, by node id, with the reason.
        at_least: how many tests have to have run for the result to count.
    """

    paths: tuple[str, ...]
    without: dict[str, str]
    at_least: int

    def arguments(self) -> list[str]:
        """For pytest."""
        return [*_REAL, *self.paths, *(f"--deselect={one}" for one in self.without)]


_DOCKER = "tests/discovery/test_docker.py::"
_AGAINST = "tests/real/test_against_docker.py::"
_INVENTORY = "tests/discovery/test_inventory.py::"
_INSIDE = "tests/discovery/test_inside.py::"
_NAMES = "tests/discovery/test_inside_names.py::"

_SAME_IN_EVERY_LAYOUT = (
    f"{_AGAINST}test_network_equals_the_containers_own_counters",
    f"{_AGAINST}test_a_shared_namespace_is_reported_once_and_the_hosts_not_at_all",
    f"{_AGAINST}test_odd_labels_become_tags_that_open_falcon_can_store",
    f"{_AGAINST}test_collection_goes_on_while_dockerd_hangs_dies_and_comes_back",
    f"{_AGAINST}test_containers_that_come_and_go_while_they_are_read_do_no_harm",
    f"{_AGAINST}test_check_says_what_docker_answers",
    "tests/cli/test_commands.py::test_a_container_with_an_odd_name",
    f"{_DOCKER}test_odd_labels",
    f"{_DOCKER}test_networks",
    f"{_DOCKER}test_stop_start_rename_pause",
    f"{_DOCKER}test_the_same_name_again_is_another_container",
    f"{_DOCKER}test_known_containers_are_not_described_again",
    f"{_DOCKER}test_a_container_that_dies_between_list_and_description",
    f"{_DOCKER}test_one_stuck_container_does_not_hide_the_others",
    f"{_DOCKER}test_events",
    f"{_DOCKER}test_watch_ends_although_the_daemon_hangs",
    f"{_INVENTORY}test_a_hanging_engine_changes_nothing_but_its_state",
    f"{_INVENTORY}test_an_inventory_stops_although_the_engine_hangs",
    f"{_INVENTORY}test_a_killed_engine_that_comes_back",
    f"{_INSIDE}test_the_host_s_end_of_a_veth_is_seen_only_in_its_network",
    f"{_INSIDE}test_what_is_not_mounted_is_told_with_its_remedy",
)
_SAME_CONTAINERS = {
    "tests/discovery/test_cgroups.py::test_the_same_containers_as_docker_says": (
        "tests/guest compares the same with more kinds of containers"
    ),
}
_ANOTHER = "one combination of each kind is run; each takes ten seconds here"
_UNTOLD = "under v2 Docker tells of few kills that end a container"
_LIKE_THE_OTHERS = {
    f"{_INSIDE}test_the_counters_are_those_that_the_host_reads[container.cpu.cores-host]": _ANOTHER,
    f"{_INSIDE}test_the_counters_are_those_that_the_host_reads[container.mem.memused-host]": _ANOTHER,
    f"{_INSIDE}test_with_and_without_the_host_s_other_namespaces[network0-pid1]": _ANOTHER,
    f"{_INSIDE}test_with_and_without_the_host_s_other_namespaces[network1": _ANOTHER,
    f"{_INSIDE}test_without_a_runtime_to_ask[host]": _ANOTHER,
    f"{_NAMES}test_every_container_is_found_under_its_path_on_the_host[docker-pid1": _ANOTHER,
    f"{_NAMES}test_every_container_is_found_under_its_path_on_the_host[docker-pid0-host": _ANOTHER,
    f"{_NAMES}test_every_container_is_found_under_its_path_on_the_host[cgroups-pid0-host": _ANOTHER,
    f"{_NAMES}test_every_container_is_found_under_its_path_on_the_host[cgroups-pid1": _ANOTHER,
    f"{_NAMES}test_a_container_of_no_known_form[pid1]": _ANOTHER,
}

SELECTIONS = {
    "v2": Selection(
        paths=(
            *("tests/guest", "tests/real/test_against_docker.py", "tests/cli/test_commands.py"),
            *("tests/discovery/test_docker.py", "tests/discovery/test_cgroups.py"),
            *("tests/discovery/test_inventory.py", "tests/discovery/test_inside.py"),
            *("tests/discovery/test_inside_names.py", "tests/discovery/test_describe.py", "tests/cgroupfs"),
            *("tests/netlink/test_sock_diag.py", "tests/procfs/test_dev_snmp6.py"),
            *("tests/procfs/test_kmsg.py", "tests/procfs/test_kmsg_guest.py"),
            *(
                "tests/collectors/test_cpu.py",
                "tests/collectors/test_life.py",
                "tests/collectors/test_life_real.py",
            ),
            *("tests/collectors/test_memory.py", "tests/collectors/test_pids.py"),
            *(
                "tests/collectors/test_sockets.py",
                "tests/collectors/test_network_map.py",
                "tests/collectors/test_network_guest.py",
            ),
        ),
        without=dict.fromkeys(_SAME_IN_EVERY_LAYOUT, "no layout makes a difference to it")
        | _SAME_CONTAINERS
        | _LIKE_THE_OTHERS
        | {
            "tests/collectors/test_life.py::test_uptime_in_another_time_namespace": "the kernel has none",
            "tests/collectors/test_life_real.py::test_a_health_check": "no layout makes a difference to it",
            "tests/collectors/test_life_real.py::test_containers_that_are_killed_as_a_whole[init1]": _ANOTHER,
            "tests/collectors/test_life_real.py::test_without_the_log_docker_is_heard": _UNTOLD,
            "tests/collectors/test_life_real.py::test_a_container_that_is_killed_before_it_was_seen": _UNTOLD,
            "tests/collectors/test_life_real.py::test_a_container_of_podman_which_tells_of_no_kill": "no podman",
        },
        at_least=105,
    ),
    "v1": Selection(
        paths=(
            *("tests/guest", "tests/discovery/test_cgroups.py", "tests/discovery/test_describe.py"),
            *("tests/cgroupfs", "tests/collectors/test_cpu.py", "tests/collectors/test_memory.py"),
        ),
        without=_SAME_CONTAINERS,
        at_least=62,
    ),
}
