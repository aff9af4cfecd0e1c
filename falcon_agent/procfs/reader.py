"""Whose procfs it is, as far as that concerns who reads it: its PID namespace, and the host's network."""

from __future__ import annotations

import os

from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.procfs.status import parse_status


def has_our_pids(proc: str) -> bool | None:
    """Whether it numbers processes as our own PID namespace does (and so netlink and `cgroup.procs`).

    In that of an outer one we have a pid for each namespace from there to ours (proc(5), NSpid).

    Returns:
        None where that cannot be told.
    """
    try:
        return len(parse_status(read_to_eof(f"{proc}/self/status")).nspid) == 1
    except FalconAgentError:
        return None


def in_host_network(proc: str) -> bool | None:
    """Whether this thread's network namespace is that of process 1.

    Each namespace has a file net/dev of its own (fs/proc/proc_net.c), and to ask for its inode needs no privilege.
    The plain way, ns/net of process 1, takes more than CAP_SYS_PTRACE where that has capabilities that we have not.

    Returns:
        None where that cannot be told.
    """
    try:
        ours, host = (os.stat(f"{proc}/{process}/net/dev") for process in ("thread-self", "1"))
    except OSError:
        return None
    return os.path.samestat(ours, host)
