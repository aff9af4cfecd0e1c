from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import Batch
from falcon_agent.transfer.points import Points, body_of_points
from falcon_agent.transfer.spool import SpoolError
from falcon_agent.transfer.spoolfile import SpoolFile
from tests.transfer.spooling import NOW, batch, spool, spool_of, take

if TYPE_CHECKING:
    from pathlib import Path


def test_batches_leave_as_they_came_and_only_when_acknowledged(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        one, two = batch(1, 3), batch(2)
        made.put([two, one])
        queue = made.queue("default")
        lent = queue.peek()
        assert lent is not None
        assert (lent.body, lent.count, lent.timestamp) == (one.body, 3, NOW + 1)
        assert queue.peek() is lent
        queue.release(lent)
        assert queue.peek() is lent
        assert queue.records == 4
        queue.ack(lent)
        queue.ack(lent)
        assert queue.records == 1
        assert take(queue) == [2]
        assert (queue.records, queue.size, queue.peek()) == (0, 0, None)


def test_batches_that_are_made_on_demand_are_never_all_in_memory(tmp_path: Path) -> None:
    made_one = batch(0, padding="x" * 1_000_000)
    with spool(tmp_path) as made:
        tracemalloc.start()
        try:
            made.put(Batch(b"%b " % made_one.body, 1, NOW + second) for second in range(20))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * len(made_one.body)
        assert take(made.queue("default")) == list(range(20))


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put([batch(1), batch(1, 2), batch(2)])
        assert take(made.queue("default"), 1) == [1]
    with spool(tmp_path) as made:
        assert made.queue("default").records == 3
        made.put([batch(3)])
        assert take(made.queue("default")) == [1, 2, 3]
    with spool(tmp_path) as made:
        assert made.queue("default").peek() is None


def test_every_target_gets_everything_at_its_own_pace(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat_) as made:
        made.put([batch(1), batch(2)])
        assert take(made.queue("a")) == [1, 2]
        made.put([batch(3)])
        assert take(made.queue("a")) == [3]
        assert stat_.value("queue.records") == 3
    with spool(tmp_path, "a", "b") as made:
        assert take(made.queue("b")) == [1, 2, 3]
        assert made.queue("a").peek() is None


def test_a_new_target_starts_at_the_present_and_one_that_left_is_counted(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a") as made:
        made.put([batch(1, 5)])
    with spool(tmp_path, "a", "b") as made:
        made.put([batch(2)])
        assert take(made.queue("b")) == [2]
    with spool(tmp_path, "b", stat=stat_) as made:
        assert stat_.reasons("records.lost") == {"target_removed": 6}
        made.put([batch(3)])
        assert [target.name for target in made.status().targets] == ["b"]
        assert take(made.queue("b")) == [3]


def test_the_oldest_go_first_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat_, max_bytes=10_000) as made:
        for second in range(20):
            made.put([batch(second, padding=os.urandom(1000).hex())])
            if second < 5:
                assert take(made.queue("b")) == [second]
            assert made.queue("a").size <= 10_000
        left = take(made.queue("a"))
        assert left == list(range(20 - len(left), 20))
        assert take(made.queue("b")) == left
        assert stat_.reasons("records.lost") == {"spool_full": 2 * (20 - len(left)) - 5}
        lost = {target.name: target.lost for target in made.status().targets}
        assert lost == {"a": {"spool_full": 20 - len(left)}, "b": {"spool_full": 15 - len(left)}}


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, stat=stat_, max_age=100, clock=lambda: NOW + 150) as made:
        made.put([batch(10, 2), batch(49), batch(50), batch(150)])
        assert stat_.reasons("records.lost") == {"too_old": 3}
        assert take(made.queue("default")) == [50, 150]


def test_a_lent_batch_that_has_to_go_is_lost_only_if_the_attempt_fails(tmp_path: Path) -> None:
    stat_ = SelfStat()
    now = NOW
    with spool(tmp_path, "a", "b", stat=stat_, max_age=100, clock=lambda: now) as made:
        made.put([batch(1, 7)])
        a, b = made.queue("a"), made.queue("b")
        of_a, of_b = a.peek(), b.peek()
        assert of_a is not None
        assert of_b is not None
        now = NOW + 200
        made.put([batch(200)])
        assert stat_.total("records.lost") == 0
        assert (a.records, b.records) == (8, 8)
        a.ack(of_a)
        b.release(of_b)
        assert stat_.reasons("records.lost") == {"too_old": 7}
        assert (a.records, b.records) == (1, 1)
        assert take(a) == take(b) == [200]


def test_a_clock_set_back_drops_what_it_stamped_and_nobody_took(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, stat=stat_) as made:
        made.put([batch(10)])
        made.put([batch(3600, 2)])
        made.put([batch(3660, 2)])
        made.put([batch(20)])
        made.put([batch(30)])
        assert stat_.reasons("records.lost") == {"clock": 4}
        assert made.queue("default").records == 3
        assert take(made.queue("default")) == [10, 20, 30]


def test_a_target_that_took_the_wrong_time_is_spared_what_it_cannot_store(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat_) as made:
        made.put([batch(100, 2)])
        assert take(made.queue("a")) == [100]
    with spool(tmp_path, "a", "b", stat=stat_) as made:
        # b has not seen it: for b the wrong time never was.
        made.put([batch(40)])
        made.put([batch(100, 3), batch(100, 4)])
        made.put([batch(160)])
        assert stat_.reasons("records.lost") == {"clock": 2, "clock_back": 1 + 3 + 4}
        assert take(made.queue("a")) == [160]
        assert take(made.queue("b")) == [40, 100, 100, 160]


@pytest.mark.parametrize("arrives", [True, False])
def test_the_clock_is_set_back_while_a_batch_is_under_way(tmp_path: Path, *, arrives: bool) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, stat=stat_) as made:
        made.put([batch(100, 2), batch(160, 4)])
        queue = made.queue("default")
        lent = queue.peek()
        assert lent is not None
        made.put([batch(40), batch(70)])
        assert stat_.reasons("records.lost") == {"clock": 4}
        if arrives:
            queue.ack(lent)
            assert stat_.reasons("records.lost") == {"clock": 4, "clock_back": 2}
        else:
            queue.release(lent)
            assert stat_.reasons("records.lost") == {"clock": 6}
        made.put([batch(130)])
        assert queue.records == (1 if arrives else 3)
        assert take(queue) == ([130] if arrives else [40, 70, 130])


def test_dead_letters_are_kept_and_bounded(tmp_path: Path) -> None:
    with spool(tmp_path, "a", "b") as made:
        made.queue("a").bury([{"metric": "x"}] * 3 + [{"metric": "long" * 100_000}], "refused")
        for _ in range(20):
            made.queue("b").bury([{"metric": "y"}] * 100, "refused")
        dead = {target.name: target.dead for target in made.status().targets}
        assert dead == {"a": 0, "b": 1000}


def test_only_one_process_uses_it(tmp_path: Path) -> None:
    code = (
        "import sys; from falcon_agent.selfstat import SelfStat; from falcon_agent.transfer.spool import *\n"
        "spool = DiskSpool(sys.argv[1], ['a'], SelfStat(), max_bytes=1, max_age=1); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(
            SpoolError, match=rf"^cannot use the spool in .*: the process {child.pid} uses it"
        ):
            spool_of(tmp_path, "a")
        child.kill()
    spool_of(tmp_path, "a").close()


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "spool"
    with spool(directory) as made:
        made.put([batch(1)])
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}
    assert modes == dict.fromkeys(("spool.db", "spool.db-wal", "spool.db-shm", "spool.lock"), 0o600)


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put([batch(1)])
    database = sqlite3.connect(tmp_path / "spool.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(SpoolError, match="it has version 99, this program knows 4"):
        spool_of(tmp_path)
    database = sqlite3.connect(tmp_path / "spool.db")
    database.execute("PRAGMA user_version = 4")
    database.close()
    with spool(tmp_path) as made:
        assert take(made.queue("default")) == [1]


@pytest.mark.parametrize(
    ("version", "words"),
    [(0, "no agent has finished making it; try again, or start one"), (1, "an older version wrote it")],
)
def test_what_cannot_be_looked_at_yet(tmp_path: Path, version: int, words: str) -> None:
    with spool(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(SpoolError, match=words):
        SpoolFile(str(tmp_path), writable=False)


def test_a_spool_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put([batch(1), batch(2)])
    database = sqlite3.connect(tmp_path / "spool.db")
    database.executescript("DROP TABLE dead; DROP TABLE lost; PRAGMA user_version = 1")
    database.close()
    with spool(tmp_path) as made:
        made.queue("default").bury([{}], "refused")
        assert made.status().targets[0].dead == 1
        assert take(made.queue("default")) == [1, 2]


def test_a_spool_of_older_versions_is_taken_over(tmp_path: Path) -> None:
    old = batch(1, 3)
    document = b'{"step":60,"timestamp":%d,"layouts":[[["m","GAUGE"]]],"reports":[["h","",0,"5"]]}' % (
        NOW + 3
    )
    with spool(tmp_path) as made:
        made.put([old, batch(2)])
    database = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    database.execute("UPDATE batch SET body = ? WHERE id = 1", (zlib.compress(old.body, 1),))
    database.execute("PRAGMA user_version = 2")
    database.close()
    with spool(tmp_path) as made:
        made.put([Points(document, 1, NOW + 3)])
        queue = made.queue("default")
        lent = queue.peek()
        assert lent is not None
        assert (lent.body, lent.count) == (old.body, 3)  # as version 2 packed it
        assert take(queue, 2) == [1, 2]  # the other is as version 3 did
        lent = queue.peek()
        assert lent is not None
        assert (lent.body, lent.count) == (body_of_points(document), 1)
        assert take(queue) == [3]
    database = sqlite3.connect(tmp_path / "spool.db")
    assert database.execute("PRAGMA user_version").fetchone() == (4,)
    database.close()


def test_the_file_shrinks_after_a_backlog(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put(batch(second, padding=os.urandom(20_000).hex()) for second in range(1000))
        grown = (tmp_path / "spool.db").stat().st_size
        assert made.queue("default").size < grown < 1.2 * made.queue("default").size
        assert len(take(made.queue("default"))) == 1000
        for second in range(1000, 1005):
            made.put([batch(second)])
            take(made.queue("default"))
        assert (tmp_path / "spool.db").stat().st_size < grown / 2
        assert (tmp_path / "spool.db-wal").stat().st_size < 20 << 20


def test_one_thread_puts_while_others_take(tmp_path: Path) -> None:
    taken: dict[str, list[int]] = {"a": [], "b": []}

    def empty(name: str) -> None:
        queue = made.queue(name)
        while len(taken[name]) < 300:
            if queue.wait(10):
                taken[name] += take(queue)

    with spool(tmp_path, "a", "b") as made:
        threads = [threading.Thread(target=empty, args=(name,)) for name in taken]
        for thread in threads:
            thread.start()
        for second in range(300):
            made.put([batch(second)])
            made.status()
        for thread in threads:
            thread.join(60)
    assert taken == {"a": list(range(300)), "b": list(range(300))}


def test_waiting_ends_when_woken(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        queue = made.queue("default")
        queue.wake()
        assert queue.wait(30) is False
        assert queue.wait(0.001) is False
        assert queue.close() == 0


def test_a_person_drops_what_waits(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat_) as made:
        made.put([batch(1), batch(2), batch(3)])
        assert made.discard(before=NOW + 2) == 2
        assert made.discard(target="a") == 2
        assert take(made.queue("a")) == []
        assert take(made.queue("b")) == [2, 3]
        assert stat_.reasons("records.lost") == {"dropped": 4}


def test_a_second_cycle_of_a_timestamp_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    stat_ = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat_) as made:
        assert made.newest is None
        made.put([batch(1), batch(2, 3)])
        made.put([batch(2, 5), batch(3)])
        assert stat_.reasons("records.lost") == {"repeated": 2 * 5}
        assert made.newest == NOW + 3
        lent = made.queue("a").peek()
        assert lent is not None
        assert made.queue("a").records == made.queue("b").records == 1 + 3 + 1
        assert take(made.queue("a")) == [1, 2, 3]
    with spool(tmp_path, "a", "b") as made:
        assert made.newest == NOW + 3
        assert take(made.queue("b")) == [1, 2, 3]
