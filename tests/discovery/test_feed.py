"""What a feed hears of kills for want of memory, and the figures of an engine, asked for only if they are
wanted."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import Census, Container
from falcon_agent.discovery import feed as module
from falcon_agent.discovery.feed import Feed
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.errors import RuntimeUnavailableError
from tests.discovery.told import LONG, Told, container
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CENSUS = Census("told", {"running": 1}, 2, 3, None)
WEB = container("web")
SHORT = replace(container("short"), pid=0, starttime=0)


class Engine(Told):
    """A runtime that also tells what it has."""

    def __init__(self) -> None:
        super().__init__(WEB)
        self.asked = 0
        self.census_error: Exception | None = None

    def census(self) -> Census:
        self.asked += 1
        if self.census_error:
            raise self.census_error
        return CENSUS


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def feed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    # Where the machine takes longer to listen, a second look would follow the first one at some time.
    monkeypatch.setattr(module, "_LISTEN_SECONDS", LONG)
    made = Feed(engine, LONG)
    made.start()
    made.wait(20)
    yield made
    made.stop()


def look(feed: Feed, engine: Engine) -> None:
    before = engine.looks
    feed.refresh()
    wait_until(lambda: engine.looks > before, "it looks")
    # A look that is asked for while another is under way begins only after that.
    feed.refresh()
    wait_until(lambda: engine.looks > before + 1, "the look is over")


def ooms(feed: Feed) -> list[tuple[str, int]]:
    return [(one.name, one.ooms) for one in feed.containers()]


def ended(feed: Feed) -> list[tuple[str, str, int]]:
    return [(one.id, one.key, one.ooms) for one in feed.ended()]


def kill(engine: Engine, of: Container = WEB) -> None:
    engine.tell(Change(of.id, oom=replace(of, pid=0, starttime=0, ooms=0)))


def test_kills_are_counted_as_long_as_the_container_lives(feed: Feed, engine: Engine) -> None:
    kill(engine)
    kill(engine)
    assert ooms(feed) == [("web", 2)]
    engine.found = Found([replace(WEB, name="renamed", health="healthy")])
    look(feed, engine)
    assert ooms(feed) == [("renamed", 2)]
    assert ended(feed) == []


def test_a_life_that_ends_is_told_with_its_kills_once(feed: Feed, engine: Engine) -> None:
    kill(engine)
    engine.tell(Change(WEB.id, ended=True))
    assert ooms(feed) == []
    assert ended(feed) == [(WEB.id, WEB.key, 1)]
    assert ended(feed) == []


def test_a_life_without_kills_ends_unmentioned(feed: Feed, engine: Engine) -> None:
    engine.tell(Change(WEB.id, ended=True))
    assert ended(feed) == []


def test_a_life_that_only_a_look_shows_to_be_over(feed: Feed, engine: Engine) -> None:
    kill(engine)
    engine.found = Found([])
    look(feed, engine)
    assert ended(feed) == [(WEB.id, WEB.key, 1)]


def test_the_next_life_begins_without_kills(feed: Feed, engine: Engine) -> None:
    kill(engine)
    again = replace(WEB, pid=1, starttime=container("init", 1).starttime)
    engine.found = Found([again])
    look(feed, engine)
    assert ooms(feed) == [("web", 0)]
    assert ended(feed) == [(WEB.id, WEB.key, 1)]
    # It is not known which of the two lives the news of this kill is about, but one of them.
    kill(engine)
    engine.tell(Change(WEB.id, ended=True))
    assert ended(feed) == [(WEB.id, again.key, 1)]


def test_a_container_that_no_look_has_seen(feed: Feed, engine: Engine) -> None:
    for _ in range(2):
        kill(engine, SHORT)
    assert ended(feed) == []
    engine.tell(Change(SHORT.id, ended=True))
    assert ended(feed) == [(SHORT.id, SHORT.key, 2)]


def test_a_container_whose_kill_was_heard_before_a_look_showed_it(feed: Feed, engine: Engine) -> None:
    new = container("short")
    kill(engine, SHORT)
    engine.found = Found([WEB, new])
    look(feed, engine)
    assert ("short", 1) in ooms(feed)
    engine.tell(Change(new.id, ended=True))
    assert ended(feed) == [(new.id, new.key, 1)]


def test_the_news_of_a_kill_may_come_after_that_of_the_end(feed: Feed, engine: Engine) -> None:
    engine.tell(Change(WEB.id, ended=True))
    engine.tell(Change(WEB.id))  # its network is taken away: no start
    again = replace(WEB, pid=1, starttime=container("init", 1).starttime)
    engine.found = Found([again])
    look(feed, engine)
    kill(engine)
    assert ooms(feed) == [("web", 0)]
    assert [(name, kills) for name, _, kills in ended(feed)] == [(WEB.id, 1)]
    engine.tell(Change(WEB.id, started=True))
    kill(engine)
    assert ooms(feed) == [("web", 1)]
    assert ended(feed) == []


def test_an_end_that_was_not_heard(feed: Feed, engine: Engine) -> None:
    kill(engine, SHORT)
    engine.tell(Change())  # a new stream: the end was told in between, or will be
    assert ended(feed) == [(SHORT.id, SHORT.key, 1)]
    engine.tell(Change(SHORT.id, ended=True))
    assert ended(feed) == []


def test_a_start_that_was_not_heard(feed: Feed, engine: Engine) -> None:
    engine.tell(Change(WEB.id, ended=True))
    look(feed, engine)
    engine.tell(Change())
    kill(engine)
    assert ended(feed) == []
    assert ooms(feed) == [("web", 1)]


def test_what_nobody_asks_for_does_not_pile_up(
    feed: Feed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OOMS_MAX", 3)
    for number in range(10):
        kill(engine, replace(SHORT, id=f"{number}"))
    for number in range(10):
        engine.tell(Change(f"{number}", ended=True))
    assert [name for name, _, _ in ended(feed)] == ["0", "1", "2"]


def test_figures_are_asked_for_only_when_somebody_wants_them(
    feed: Feed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CENSUS_SECONDS", LONG)
    look(feed, engine)
    assert engine.asked == 0
    assert feed.census() is None
    wait_until(lambda: feed.census() == CENSUS, "the figures are there")
    look(feed, engine)
    assert engine.asked == 1, "they are new enough"


def test_figures_that_were_too_new_to_be_asked_for_again_are_soon(
    feed: Feed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CENSUS_SECONDS", 0.5)
    feed.census()
    wait_until(lambda: engine.asked, "it is asked")
    feed.refresh()
    wait_until(lambda: engine.asked > 1, "it is asked again though nothing happens any more")


def test_figures_go_when_the_engine_does_not_answer(
    feed: Feed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CENSUS_SECONDS", 0)
    feed.census()
    wait_until(lambda: feed.census() == CENSUS, "the figures are there")
    engine.census_error = RuntimeUnavailableError("cannot say")
    feed.refresh()
    wait_until(lambda: feed.census() is None, "they are not there")
    assert feed.state().ok
    engine.census_error = ValueError("a bug")
    asked = engine.asked
    feed.refresh()
    wait_until(lambda: engine.asked > asked, "it is asked again")
    engine.census_error = None
    feed.refresh()
    wait_until(lambda: feed.census() == CENSUS, "they are there again")
    engine.error = RuntimeUnavailableError("cannot answer")
    feed.refresh()
    wait_until(lambda: feed.census() is None, "it does not answer at all")


def test_a_runtime_without_figures() -> None:
    told = Told(WEB)
    feed = Feed(told, LONG)
    feed.start()
    try:
        feed.wait(20)
        feed.census()
        wait_until(lambda: told.looks > 1, "it looks again")
        assert feed.census() is None
        assert feed.state().ok
    finally:
        feed.stop()


class Prompt(Told):
    """A runtime whose looks wait until somebody listens."""

    def find(self) -> Found:
        self._watched.wait(20)
        return super().find()


class Silent(Told):
    """A runtime of which nothing is ever heard."""

    def watch(self, notify: Callable[[Change], None]) -> None:
        self._closed.wait()


def test_the_first_look_begins_when_changes_are_heard_and_needs_no_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LISTEN_SECONDS", LONG)
    prompt = Prompt(WEB)
    feed = Feed(prompt, LONG)
    feed.start()
    feed.wait(20)
    assert prompt.looks == 1
    assert not feed._wake.is_set()
    feed.stop()


def test_who_is_never_heard_is_looked_at_all_the_same() -> None:
    silent = Silent(WEB)
    feed = Feed(silent, LONG)
    feed.start()
    feed.wait(20)
    assert [one.name for one in feed.containers()] == ["web"]
    feed.stop()


def test_the_end_does_not_wait_for_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTEN_SECONDS", LONG)
    silent = Silent(WEB)
    feed = Feed(silent, LONG)
    feed.start()
    feed.stop()
    wait_until(lambda: "look-told" not in {thread.name for thread in threading.enumerate()}, "its end")
    assert silent.looks == 0
