from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.real

PROGRAM = """
import ctypes, threading
from falcon_agent.allocator import keep_little

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.free.argtypes = [ctypes.c_void_p]
{call}

# All at the same time, so that each looks for an arena that nobody uses.
together = threading.Barrier(8)
def work():
    together.wait()
    for _ in range(1000):
        libc.free(libc.malloc(5000))
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""


def arenas(call: str) -> int:
    """How many arenas glibc has after eight threads have used it (malloc_info(3))."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr=")


def test_threads_share_one_arena() -> None:
    assert arenas("keep_little()") == 1
    assert arenas("") > 1


def test_another_c_library_goes_on_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no other one here; it is one without this function.
    from falcon_agent import allocator  # noqa: PLC0415

    monkeypatch.setattr("falcon_agent.allocator.ctypes.CDLL", lambda _: object())
    allocator.keep_little()
