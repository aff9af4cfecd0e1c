"""The spool of a process that is killed, at random instants and between any two statements."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.transfer.spooling import NOW, spool, take

ROOT = Path(__file__).parent.parent.parent

CHILD = """
import os, random, sys
from tests.transfer.spooling import batch, spool_of
directory, seed, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
spool = spool_of(directory, "a", "b")
second = first
print("ready", flush=True)
while True:
    if rng.random() < 0.5:
        second += 1
        spool.put([batch(second, padding="x" * rng.randrange(3000)) for _ in range(rng.randrange(1, 4))])
        os.write(1, b"put %d\\n" % second)
    else:
        name = rng.choice("ab")
        head = spool.queue(name).peek()
        if head is not None:
            os.write(1, b"acking %s %d\\n" % (name.encode(), head.timestamp))
            spool.queue(name).ack(head)
            os.write(1, b"acked %s %d\\n" % (name.encode(), head.timestamp))
"""


@pytest.mark.real
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(20261120)
    put = 0
    acked = {"a": 0, "b": 0}
    # At least forty, and as many more as a slow disk needs for some progress.
    for turn in range(400):
        if turn >= 40 and put > 40:
            break
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "spool"), str(turn), str(put)],
            stdout=subprocess.PIPE,
            bufsize=0,  # what is read ahead here would be missing from what communicate returns
            cwd=ROOT,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        said = child.communicate(timeout=30)[0].decode().splitlines()
        open_: dict[str, int] = {}
        for line in said:
            match line.split():
                case ["put", number]:
                    put = int(number)
                case ["acking", name, number]:
                    open_[name] = int(number) - NOW
                case ["acked", name, number]:
                    acked[name] = int(number) - NOW
        with spool(tmp_path / "spool", "a", "b") as made:
            for target in made.status().targets:
                # Several batches may have the same time: the last acknowledged time may still be waiting in part.
                oldest = target.oldest - NOW if target.oldest is not None else None
                newest = target.newest - NOW if target.newest is not None else None
                assert newest is None or put <= newest <= put + 1
                assert newest is not None or put in {acked[target.name], open_.get(target.name)}
                assert oldest is None or acked[target.name] <= oldest
                passed = max(acked[target.name], open_.get(target.name, 0))
                assert oldest is None or oldest <= passed + 1
                assert not target.lost
                acked[target.name] = passed
            if made.status().targets[0].newest is not None:
                put = max(put, *((t.newest or NOW) - NOW for t in made.status().targets))
    assert put > 40


CRASH = """
import os, sys
from falcon_agent.transfer.spoolfile import SpoolFile
from tests.transfer.spooling import batch, spool_of, take
left = int(sys.argv[2])
def trace(statement):
    global left
    if left == 0:
        os._exit(42)
    left -= 1
prepare = SpoolFile._prepare
def traced(file, *, writable):
    file._db.set_trace_callback(trace)
    prepare(file, writable=writable)
SpoolFile._prepare = traced
spool = spool_of(sys.argv[1], "a", "b")
for second in range(1, 4):
    spool.put([batch(second), batch(second, 2)])
    os.write(1, b"put %d\\n" % second)
    for name, most in (("a", 2), ("b", 1)):
        for _ in range(most):
            head = spool.queue(name).peek()
            spool.queue(name).ack(head)
            os.write(1, b"acked %s\\n" % name.encode())
spool.put([batch(2)])
os.write(1, b"back\\n")
os._exit(0)
"""


@pytest.mark.real
def test_a_crash_between_any_two_statements(tmp_path: Path) -> None:
    batches = [1, 1, 2, 2, 3, 3]
    for statements in range(1000):
        directory = tmp_path / str(statements)
        done = subprocess.run(
            [sys.executable, "-c", CRASH, str(directory), str(statements)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
            cwd=ROOT,
        )
        if done.returncode == 0:
            break
        assert done.returncode == 42
        said = done.stdout.splitlines()
        put = sum(line.startswith("put") for line in said)
        with spool(directory, "a", "b") as made:
            a, b = take(made.queue("a")), take(made.queue("b"))
        for name, got in (("a", a), ("b", b)):
            acked = said.count(f"acked {name}")
            # What put() returned for is there, whole cycles only, and at most one acknowledged batch comes twice.
            possible = [
                batches[start : 2 * cycles] for start in (acked, acked + 1) for cycles in (put, put + 1)
            ]
            if put == 3:
                # The clock was set back to 2; a has it already.
                possible += [[]] if name == "a" else [[], [2]]
            assert got in possible, (statements, said)
    assert statements > 50
