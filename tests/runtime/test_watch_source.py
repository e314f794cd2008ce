"""What the watcher of a remote source takes for a change, and what it tells of one that gives none. No network: the test is the source."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from mqsdk.config.origin import Content, down, refused
from mqsdk.errors import ConfigError, StateError
from mqsdk.runtime.watch import SourceWatch, Watcher

PATIENCE_S = 30.0


class Given:
    """A source whose answer is set by hand."""

    name = id = "test://source"

    def __init__(self) -> None:
        self.answer: str | ConfigError = "a: 1"
        self.changed: Callable[[], object] | None = None
        self.closed = 0

    def load(self, timeout_s: float = 1.0) -> Content:
        if isinstance(self.answer, ConfigError):
            raise self.answer
        return Content(self.answer, self.answer.encode())

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        self.changed = changed
        return self.end

    def end(self) -> None:
        self.changed = None

    def close(self) -> None:
        self.closed += 1


class Looking:
    def __init__(self, was_down: bool = False) -> None:
        self.source = Given()
        self.taken: list[bytes] = []
        self.told: list[str] = []
        self.error: Exception | None = None
        self.watch = SourceWatch(self.source, self.reload, lambda error: self.told.append(error.problems[0].what), lambda: was_down)

    def reload(self, content: Content) -> None:
        self.taken.append(content.data)
        if self.error is not None:
            raise self.error

    def look(self, answer: str | ConfigError, times: int = 3) -> None:
        self.source.answer = answer
        for _ in range(times):
            self.watch.look()


GONE = down("test://source", "nobody answers")


def test_each_content_is_taken_once_and_the_first_one_too() -> None:
    looking = Looking()
    for answer in ("a: 1", "a: 2", "a: 1"):
        looking.look(answer)
    assert looking.taken == [b"a: 1", b"a: 2", b"a: 1"]
    assert looking.told == []


def test_what_was_taken_last_is_taken_again_after_somebody_else_has_reloaded() -> None:
    looking = Looking()
    looking.look("a: 1")
    looking.watch.forget()
    looking.look("a: 1")
    assert looking.taken == [b"a: 1", b"a: 1"]


def test_what_is_refused_is_tried_once_and_what_came_at_a_bad_moment_again() -> None:
    looking = Looking()
    looking.error = ConfigError("bad")
    looking.look("a: 1")
    assert looking.taken == [b"a: 1"]
    looking.error = StateError("not now")
    looking.look("a: 2")
    assert looking.taken == [b"a: 1"] + [b"a: 2"] * 3


def test_what_was_refused_for_a_reason_that_passes_is_tried_again_once_it_has() -> None:
    looking, due = Looking(), [False]
    looking.watch._is_due = lambda: due[0]
    looking.error = ConfigError("an earlier change is unfinished")
    looking.look("a: 1")
    assert looking.taken == [b"a: 1"]
    due[0] = True
    looking.look("a: 1", times=1)
    assert looking.taken == [b"a: 1"] * 2


def test_each_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mqsdk.config")
    looking = Looking()
    looking.look("a: 1")
    looking.look(GONE)
    looking.look(down("test://source", "another reason of the same outage"))
    assert (looking.told, caplog.messages) == (["cannot be reached: nobody answers"], [])
    looking.look("a: 1")
    assert caplog.messages == ["test://source answers again"]
    looking.look(GONE)
    assert len(looking.told) == 2
    assert looking.taken == [b"a: 1"]


def test_a_refusal_to_answer_is_told_once_beside_an_outage() -> None:
    looking = Looking()
    for answer in (refused("test://source", "no such key"), GONE, refused("test://source", "no such key")):
        looking.look(answer)
    assert looking.told == ["no such key", "cannot be reached: nobody answers", "no such key"]


def test_an_outage_that_the_start_has_told_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mqsdk.config")
    looking = Looking(was_down=True)
    looking.look(GONE)
    assert looking.told == []
    looking.look("a: 2")
    assert (looking.taken, caplog.messages) == ([b"a: 2"], ["test://source answers again"])
    looking.look(GONE)
    assert len(looking.told) == 1


def test_a_hint_makes_it_look_at_once_and_the_end_closes_all() -> None:
    looking = Looking()
    listens, took = threading.Event(), threading.Semaphore(0)
    looking.watch._reload = lambda content: took.release()

    def every_s() -> float:
        listens.set()  # asked after the hints were begun
        return 3600.0

    watcher = Watcher(looking.watch, every_s)
    watcher.start()
    assert listens.wait(PATIENCE_S)
    for answer in ("a: 1", "a: 2"):
        looking.source.answer = answer
        assert looking.source.changed is not None
        looking.source.changed()
        assert took.acquire(timeout=PATIENCE_S)
    watcher.close()
    watcher._thread.join(PATIENCE_S)
    assert not watcher._thread.is_alive()
    assert (looking.source.changed, looking.source.closed) == (None, 1)
