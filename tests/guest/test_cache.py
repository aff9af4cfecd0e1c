"""What is built once: never half, never twice. The builders are stand-ins, the real ones take a minute."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.guest import image, packages
from tests.guest.cache import ready

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = {"lock", "lock-of-builders"}


def quiet(text: str) -> None:
    pass


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was built, in order."""
    done: list[str] = []

    def build(path: Path, *more: Path) -> None:
        path.write_text("whole")
        done.append(path.name)

    monkeypatch.setattr(image, "build", build)
    monkeypatch.setattr(packages, "build", build)
    return done


def test_it_is_built_once_and_the_old_goes(tmp_path: Path, built: list[str]) -> None:
    for old in ("image-old", "building-left"):
        (tmp_path / old).mkdir()
    for _ in range(2):
        with ready(tmp_path, quiet) as found:
            assert [path.read_text() for path in found] == ["whole", "whole"]
    assert built == [image.name(), packages.name()]
    assert {path.name for path in tmp_path.iterdir()} == {*LOCKS, image.name(), packages.name()}


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, *more: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(image, "build", interrupted)
        with pytest.raises(KeyboardInterrupt), ready(tmp_path, quiet):
            pass
    assert {path.name for path in tmp_path.iterdir()} == LOCKS
    with ready(tmp_path, quiet) as (disk, _):
        assert disk.read_text() == "whole"


def test_two_at_a_time_build_once(tmp_path: Path, built: list[str]) -> None:
    together = threading.Barrier(2, timeout=20)

    def run() -> None:
        together.wait()
        with ready(tmp_path, quiet) as (disk, _):
            assert disk.read_text() == "whole"
            together.wait()  # both may use it at the same time

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [image.name(), packages.name()]


def test_what_somebody_uses_stays_until_the_next_build(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["image-1", "image-1", "image-2", "image-2", "image-3", "image-3"])
    with monkeypatch.context() as changing:
        changing.setattr(image, "name", lambda: next(names))
        with ready(tmp_path, quiet) as (first, _):
            with ready(tmp_path, quiet) as (second, _):
                assert first.exists()
                assert second.exists()
            assert first.exists()
        with ready(tmp_path, quiet) as (third, _):
            pass
    assert built == ["image-1", packages.name(), "image-2", "image-3"]
    assert [path.name for path in tmp_path.glob("image-*")] == [third.name]
