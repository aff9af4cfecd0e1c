"""The spool on disks and files that fail."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.spoolfile import DATABASE, SpoolFile
from tests.transfer.spooling import NOW, batch, small_disk, spool, spool_of, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def fill(directory: Path) -> Path:
    """Use up what is free."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return filler


@pytest.mark.real
def test_a_full_disk_is_bridged_by_memory(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    stat = SelfStat()
    with spool(disk / "spool", stat=stat) as made:
        made.put([batch(1), batch(2)])
        filler = fill(disk)
        for second in range(3, 40):
            made.put([batch(second, padding=os.urandom(10_000).hex())])
        status = made.status()
        assert status.trouble.startswith("cannot use ")
        assert status.memory_records
        assert caplog.text.count("wait in memory") == 1
        assert take(made.queue("default"), 3) == [1, 2, 3]
        filler.unlink()
        made.put([batch(40)])
        status = made.status()
        assert (status.trouble, status.memory_records) == ("", 0)
        assert "on disk again" in caplog.text
    with spool(disk / "spool", stat=stat) as made:
        assert take(made.queue("default")) == list(range(4, 41))
    assert stat.total("records.lost") == 0


@pytest.mark.real
def test_a_spool_that_filled_the_disk_itself_can_be_emptied(disk: Path) -> None:
    stat = SelfStat()
    with spool(disk / "spool", stat=stat, memory_bytes=100_000) as made:
        for second in range(300):
            made.put([batch(second, padding=os.urandom(5000).hex())])
        lost = stat.reasons("records.lost")
        assert set(lost) == {"disk"}
        taken = take(made.queue("default"))
        assert taken == sorted(taken)
        assert len(taken) == 300 - lost["disk"]
        made.put([batch(400)])
        assert made.status().memory_records == 0
    with spool(disk / "spool") as made:
        assert take(made.queue("default")) == [400]


@pytest.mark.real
def test_a_disk_that_is_full_from_the_start(disk: Path) -> None:
    filler = fill(disk)
    with spool(disk / "spool") as made:
        made.put([batch(1)])
        assert made.status().trouble
        filler.unlink()
        made.put([batch(2)])
        assert made.status().trouble == ""
    with spool(disk / "spool") as made:
        assert take(made.queue("default")) == [1, 2]


@pytest.mark.real
def test_a_file_system_that_is_read_only_for_a_while(disk: Path) -> None:
    stat = SelfStat()
    with spool(disk / "spool") as made:
        made.put([batch(1, 3)])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with spool(disk / "spool", stat=stat) as made:
        made.put([batch(2), batch(3)])
        assert "ead-only" in made.status().trouble
        assert take(made.queue("default"), 1) == [2]
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        made.put([batch(4)])
        assert made.status().trouble == ""
        # Newer records went out meanwhile, so that graph would not take these any more.
        assert stat.reasons("records.lost") == {"disk": 3}
        assert take(made.queue("default")) == [3, 4]


@pytest.mark.real
def test_what_the_disk_held_goes_first_if_nothing_went_meanwhile(disk: Path) -> None:
    stat = SelfStat()
    with spool(disk / "spool", "a") as made:
        made.put([batch(1), batch(100)])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with spool(disk / "spool", "a", "b", stat=stat) as made:
        made.put([batch(50)])
        made.put([batch(60)])
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        made.put([batch(70)])
        assert stat.reasons("records.lost") == {"clock": 1}
        assert take(made.queue("a")) == [1, 50, 60, 70]
        assert take(made.queue("b")) == [50, 60, 70]


@pytest.mark.real
@pytest.mark.parametrize("arrives", [True, False])
def test_the_disk_comes_back_while_a_batch_is_under_way(disk: Path, *, arrives: bool) -> None:
    stat = SelfStat()
    with spool(disk / "spool") as made:
        made.put([batch(1, 3)])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with spool(disk / "spool", stat=stat) as made:
        made.put([batch(2)])
        queue = made.queue("default")
        lent = queue.peek()
        assert lent is not None
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        made.put([batch(3)])
        assert stat.reasons("records.lost") == {"disk": 3}
        assert queue.records == 2
        if arrives:
            queue.ack(lent)
        else:
            queue.release(lent)
        assert take(queue) == ([3] if arrives else [2, 3])
        assert queue.records == 0


def test_what_is_put_into_a_damaged_database_is_on_disk_all_the_same(tmp_path: Path) -> None:
    stat = SelfStat()
    now = NOW
    with spool(tmp_path, stat=stat, clock=lambda: now, max_age=100) as made:
        made.put([batch(1)])
        other = sqlite3.connect(tmp_path / DATABASE)
        other.execute("DROP TABLE target")
        other.close()
        now += 200
        made.put([batch(200)])
        assert stat.total("spool.damaged") == 1
        assert made.status().memory_records == 0
        assert take(made.queue("default")) == [200]


@pytest.mark.real
def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    stat = SelfStat()
    (tmp_path / "file").write_text("")
    with spool(tmp_path / "file" / "spool", stat=stat, memory_bytes=2000) as made:
        for second in range(100):
            made.put([batch(second, padding=os.urandom(100).hex())])
        assert "Not a directory" in made.status().trouble
        left = take(made.queue("default"))
        assert left == list(range(100 - len(left), 100))
        assert stat.reasons("records.lost") == {"disk": 100 - len(left)}
        made.put([batch(200, 5)])
        assert made.close() == 5


def test_a_directory_that_is_removed(tmp_path: Path) -> None:
    stat = SelfStat()
    with spool(tmp_path / "spool", stat=stat) as made:
        made.put([batch(1)])
        shutil.rmtree(tmp_path / "spool")
        made.put([batch(2)])
        made.put([batch(3)])
        assert stat.reasons("records.lost") == {"damaged": 1}
    with spool(tmp_path / "spool") as made:
        assert take(made.queue("default")) == [2, 3]


def filled(directory: Path) -> bytes:
    """A spool with some pages; returns the database."""
    with spool(directory) as made:
        made.put(batch(second, padding=os.urandom(3000).hex()) for second in range(1, 9))
    return (directory / DATABASE).read_bytes()


def works(directory: Path, content: bytes | None = None, wal: bytes = b"") -> list[int]:
    """A spool on this database gives what it can and takes new batches; returns what came of the old ones."""
    for entry in directory.glob("spool.db*"):
        entry.unlink()
    if content is not None:
        (directory / DATABASE).write_bytes(content)
    if wal:
        (directory / f"{DATABASE}-wal").write_bytes(wal)
    stat = SelfStat()
    with spool(directory, stat=stat) as made:
        made.put([batch(100)])
        old = take(made.queue("default"))
        made.put([batch(200), batch(300)])
    assert old == sorted(old)
    with spool(directory, stat=stat) as made:
        new = take(made.queue("default"))
        # Some damage shows only when more is written; what that costs is counted.
        arrived = len({100, 200, 300} & {*old, *new})
        assert 3 - arrived <= stat.reasons("records.lost").get("damaged", 0)
        made.put([batch(400)])
        assert take(made.queue("default")) == [400]
    return [second for second in old if second < 100]


def test_a_database_cut_off_at_every_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = filled(tmp_path)
    assert works(tmp_path, whole) == [1, 2, 3, 4, 5, 6, 7, 8]
    for end in range(0, len(whole), 4096):
        caplog.clear()
        assert works(tmp_path, whole[:end]) == []
        aside = [entry for entry in tmp_path.iterdir() if "damaged" in entry.name]
        assert len(aside) == (1 if end else 0)
        assert all(str(entry) in caplog.text for entry in aside)


def test_a_database_with_any_page_overwritten(tmp_path: Path) -> None:
    whole = filled(tmp_path)
    for seed, start in enumerate(range(0, len(whole), 4096)):
        garbage = random.Random(seed).randbytes(4096)
        for page in (garbage, bytes(4096)):
            got = works(tmp_path, whole[:start] + page + whole[start + 4096 :])
            assert set(got) <= set(range(1, 9))


@settings(max_examples=60, suppress_health_check=UNCHECKED)
@given(changes=st.lists(st.tuples(st.integers(0, 200_000), st.binary(min_size=1, max_size=40)), min_size=1))
def test_a_database_with_any_bytes_changed(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "whole"
    if not path.exists():
        path.write_bytes(filled(tmp_path))
    content = bytearray(path.read_bytes())
    for at, change in changes:
        start = at % len(content)
        content[start : start + len(change)] = change
    content[60:72] = path.read_bytes()[60:72]  # a version that is newer is refused, see test_spool
    for entry in tmp_path.glob("*damaged*"):
        entry.unlink()
    works(tmp_path, bytes(content))


@settings(max_examples=20, suppress_health_check=UNCHECKED)
@given(garbage=st.binary(max_size=10_000))
def test_files_of_garbage(tmp_path: Path, garbage: bytes) -> None:
    if not (tmp_path / "whole").exists():
        (tmp_path / "whole").write_bytes(filled(tmp_path))
    whole = (tmp_path / "whole").read_bytes()
    assert works(tmp_path, whole, wal=garbage) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert works(tmp_path, garbage) == []


def test_the_log_of_a_damaged_database_goes_with_it(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put([batch(1), batch(2)])
        log = (tmp_path / f"{DATABASE}-wal").read_bytes()
    assert works(tmp_path, b"garbage" * 1000, wal=log) in ([], [1, 2])
    names = {entry.name for entry in tmp_path.iterdir()}
    assert not {f"{DATABASE}-wal", f"{DATABASE}-shm"} & names


@pytest.mark.parametrize("table", ["batch", "target", "dead", "lost"])
def test_a_table_is_missing(tmp_path: Path, table: str) -> None:
    filled(tmp_path)
    database = sqlite3.connect(tmp_path / DATABASE)
    database.execute(f"DROP TABLE {table}")
    database.close()
    works(tmp_path, (tmp_path / DATABASE).read_bytes())


def test_damage_while_it_is_used(tmp_path: Path) -> None:
    stat = SelfStat()
    with spool(tmp_path, "a", "b", stat=stat) as made:
        made.put(batch(second, padding=os.urandom(3000).hex()) for second in range(1, 9))
        assert take(made.queue("a"), 2) == [1, 2]
        lent = made.queue("b").peek()
        assert lent is not None
        other = sqlite3.connect(tmp_path / DATABASE)
        other.execute("DROP TABLE batch")
        other.close()
        made.put([batch(9)])
        assert stat.reasons("records.lost") == {"damaged": 6 + 7}
        assert stat.total("spool.damaged") == 1
        made.queue("b").ack(lent)
        made.put([batch(10)])
        assert take(made.queue("a")) == take(made.queue("b")) == [9, 10]


def test_one_damaged_body_costs_one_batch(tmp_path: Path) -> None:
    stat = SelfStat()
    with spool(tmp_path) as made:
        made.put([batch(1), batch(2, 3), batch(3)])
    database = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    database.execute("UPDATE batch SET body = x'00' WHERE id = 2")
    database.close()
    with spool(tmp_path, stat=stat) as made:
        assert take(made.queue("default")) == [1, 3]
        assert stat.reasons("records.lost") == {"damaged": 3}


def test_few_damaged_databases_are_kept(tmp_path: Path) -> None:
    for _ in range(8):
        (tmp_path / DATABASE).write_bytes(b"garbage" * 1000)
        spool_of(tmp_path).close()
    assert len([entry for entry in tmp_path.iterdir() if "damaged" in entry.name]) == 3


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    (tmp_path / "spool.lock").write_text("1\n")
    spool_of(tmp_path).close()


def test_it_is_read_beside_the_process_that_uses_it(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        made.put([batch(1), batch(2)])
        file = SpoolFile(str(tmp_path), writable=False)
        made.put([batch(3)])
        assert file.totals(0)[0] == 3
        file.close()
        assert take(made.queue("default")) == [1, 2, 3]
    file = SpoolFile(str(tmp_path), writable=False)
    assert file.totals(0) == (0, 0)
    file.close()
