"""Taking on the credentials of another process, for real, in a process that ends with it."""

from __future__ import annotations

import subprocess
import sys

from falcon_agent.procfs.capabilities import Credentials, parse_credentials

PROGRAM = """
import sys, threading
from falcon_agent.errors import FalconAgentError
from falcon_agent.namespaces.credentials import take_on
wanted = [12, 34, [56, 78], 1 << 19 | 1 << 40]
try:
    take_on(*wanted)
except FalconAgentError as error:
    sys.exit(str(error))
again = threading.Thread(target=lambda: print(open("/proc/thread-self/status").read()))
again.start()
again.join()
try:
    take_on(0, 0, [], 0)
except FalconAgentError as error:
    sys.exit(str(error))
"""


def run(*prefix: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM], capture_output=True, check=False, timeout=60
    )


def test_every_thread_has_just_these_and_there_is_no_way_back() -> None:
    done = run()
    # 19 is CAP_SYS_PTRACE; 40, CAP_CHECKPOINT_RESTORE, is in the upper half.
    assert parse_credentials(done.stdout) == Credentials(12, 34, frozenset({56, 78}), 1 << 19 | 1 << 40)
    # Neither does the kernel keep others for it: real and saved ids, permitted and inheritable capabilities.
    lines = dict(line.split(b":\t") for line in done.stdout.splitlines() if b":\t" in line)
    assert lines[b"Uid"].split() == [b"12"] * 4
    assert lines[b"Gid"].split() == [b"34"] * 4
    assert int(lines[b"CapPrm"], 16) == 1 << 19 | 1 << 40
    assert int(lines[b"CapInh"], 16) == 0
    assert done.stderr == b"cannot act as user 0: Operation not permitted\n"


def test_without_the_privilege_it_says_so() -> None:
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert done.returncode == 1
    assert done.stderr == b"cannot act as user 12: Operation not permitted\n"
