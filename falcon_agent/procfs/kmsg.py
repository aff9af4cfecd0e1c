"""/dev/kmsg: whom the kernel killed for want of memory, as its log tells it.

Sources: Linux, Documentation/ABI/testing/dev-kmsg; mm/oom_kill.c (dump_oom_victim, __oom_kill_process) and
mm/memcontrol.c (mem_cgroup_print_oom_context, mem_cgroup_print_oom_group), of which Linux before 5.0 has another form.
"""

from __future__ import annotations

import errno
import os
import re
import weakref
from typing import NamedTuple

from falcon_agent.kernelfile import read_error

PATH = "/dev/kmsg"

_RECORD_BYTES = 8192
"""Longer ones the kernel does not make (CONSOLE_EXT_LOG_MAX, PRINTK_MESSAGE_MAX)."""
_MAX_RECORDS = 50_000
"""In one reading; the kernel keeps fewer, but may go on writing while we read."""
_USER = 8
"""Priorities from here on are of another facility than the kernel's: a program has written the record."""
_FIELDS = 3
_GROUP_MICROSECONDS = 100_000
"""Within which the kernel kills the processes of a group; it does so at once."""
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO (include/linux/proc_ns.h)."""

_BEGINNINGS = (b"oom-kill:", b"Task", b"Memory cgroup out of", b"Out of memory", b"Killed process ")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
# Names of cgroups and commands are anybody's choice. The first path of a line begins where the kernel says, and
# the one below it has to begin with it, so nothing in a name can point to a cgroup elsewhere.
_VICTIM = re.compile(
    rb"oom-kill:constraint=.*?,(?:global_oom|oom_memcg=(/.*?)),task_memcg=(/.*),task=.{0,15},pid=(\d+),uid=\d+",
    re.DOTALL,
)
_GROUP = re.compile(rb"Tasks in (/.*) are going to be killed due to memory\.oom\.group set", re.DOTALL)
_BEFORE_5_0 = re.compile(rb"Task in (/.*?) killed as a result of limit of /.*", re.DOTALL)
_KILLED = re.compile(rb"(?:(?:Memory cgroup out|Out) of memory[^:]*: )?Killed process (\d+),? \(")


class Kill(NamedTuple):
    """A process that the kernel killed for want of memory.

    Attributes:
        pid: as the first PID namespace numbers it.
        cgroup: where it was, as the host names it (`Container.cgroup` of the memory controller); None where the log
            does not tell: the kernel says so of ten kills in five seconds at most.
    """

    pid: int
    cgroup: str | None


class News(NamedTuple):
    """What the log has told since it was read last.

    Attributes:
        kills: in their order.
        lost: the kernel has overwritten records that nobody had read.
    """

    kills: list[Kill]
    lost: bool


class Kills:
    """Finds the kills among the records of the log."""

    def __init__(self) -> None:
        self._begun = b""
        self._victim = Kill(0, None)
        self._next: str | None = None
        self._group = ("", 0)
        """A cgroup all of whose processes are being killed, and until when, in microseconds of the log's clock."""

    def told(self, record: bytes) -> Kill | None:
        """The kill that a record tells of, if it does; records come in their order.

        Args:
            record: as /dev/kmsg gives it: `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`, then lines of details.
        """
        head, _, rest = record.partition(b";")
        fields = head.split(b",")
        if len(fields) < _FIELDS or not (fields[0].isdigit() and fields[2].isdigit()):
            return None
        if int(fields[0]) >= _USER:
            return None
        text = rest.partition(b"\n")[0]
        # What another CPU says may come between two parts of a line.
        if text.startswith(b",") and self._begun:
            text = self._begun + text
        if not text.startswith(_BEGINNINGS):
            return None
        kill = self._read(_ESCAPED.sub(_unescaped, text), int(fields[2]))
        self._begun = text if text.startswith(b"oom-kill:") and not self._victim.pid else b""
        return kill

    def _read(self, text: bytes, now: int) -> Kill | None:
        if text.startswith(b"oom-kill:"):
            self._victim = _victim(_VICTIM.fullmatch(text))
            self._group = ("", 0)
        elif (found := _GROUP.fullmatch(text)) is not None:
            self._group = (os.fsdecode(found[1]), now + _GROUP_MICROSECONDS)
        elif (found := _BEFORE_5_0.fullmatch(text)) is not None:
            self._next = os.fsdecode(found[1])
        elif (found := _KILLED.match(text)) is not None:
            return self._killed(int(found[1]), now)
        return None

    def _killed(self, pid: int, now: int) -> Kill:
        named, self._next = self._next, None
        if self._victim.pid == pid:
            return self._victim
        group, until = self._group
        return Kill(pid, named or (group if group and now <= until else None))


def _victim(found: re.Match[bytes] | None) -> Kill:
    if found is None:
        return Kill(0, None)
    of_limit, of_task = found[1], found[2]
    inside = of_limit in {None, b"/", of_task} or of_task.startswith(of_limit + b"/")
    return Kill(int(found[3]), os.fsdecode(of_task) if inside else None)


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 16),))


class KernelLog:
    """The kernel's log from now on, in one descriptor; nothing happens between two readings.

    Needs CAP_SYSLOG where the sysctl `kernel.dmesg_restrict` is 1, and in a container the device.

    Raises:
        DeniedError: CAP_SYSLOG is missing.
        GoneError: there is no such device here.
        KernelFileError: it cannot be read for another reason.
    """

    def __init__(self, path: str = PATH) -> None:
        self._kills = Kills()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise read_error(path, error) from None
        self._closing = weakref.finalize(self, os.close, self._fd)
        try:
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise read_error(path, error) from None

    def read(self) -> News:
        """The kills since the last reading, or since this was made."""
        kills: list[Kill] = []
        lost = False
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                lost = True
                if error.errno != errno.EPIPE:  # after that the oldest record that is left comes next
                    os.lseek(self._fd, 0, os.SEEK_END)
                continue
            if (kill := self._kills.told(record)) is not None:
                kills.append(kill)
        return News(kills, lost)

    def close(self) -> None:
        """Let the descriptor go; may be called twice, and happens by itself with the object."""
        self._closing()


def numbers_like(proc: str) -> bool:
    """Whether a procfs shows the pids that the log names: those of the first PID namespace."""
    try:
        return os.stat(f"{proc}/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False
