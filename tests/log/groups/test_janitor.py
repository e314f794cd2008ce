"""Who removes what the log need not keep, how long a topic keeps, and what consumers are told."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log import janitor as module
from mqsdk_log.backend import LogBackend
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.retention import FOREVER, Keep
from mqsdk_log.engine.shared import Limits
from mqsdk_log.janitor import LOCK, STAMP, Janitor
from mqsdk_log.options import Options

from mqsdk.spi import BackendError, Gap, Partition

SMALL = Limits(segment_bytes=2000, min_free_bytes=0)
P0 = Partition("orders", 0)


@pytest.fixture
def backend(stage: Any, tmp_path: Path) -> Any:
    """A backend with small segments and a topic with one group; its thread sleeps, `round` is called by the tests."""
    made = LogBackend("log", Options(path=str(tmp_path / "log"), durability="none"), SMALL)
    made.open(time.monotonic() + 5)
    made.admin().ensure_topic("orders", 1)
    made.admin().ensure_group("orders", "billing")
    yield made
    made.close(time.monotonic() + 5)


def fill(stage: Any, backend: LogBackend, count: int = 50, topic: str = "orders") -> None:
    producer = backend.producer(stage.answers)
    for number in range(count):
        producer.publish([stage.record(Partition(topic, 0), b"%050d" % number)], time.monotonic() + 5)


def look(backend: LogBackend, keep: Keep, reports: list[str] | None = None) -> None:
    """One round, as if the last had been long ago."""
    log = backend._opened()
    (log.path / STAMP).unlink(missing_ok=True)
    Janitor(log, keep, (reports if reports is not None else []).append).round()


def in_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 7 * 86400)


def test_what_every_group_has_settled_goes_after_its_time_and_no_group_is_overtaken(
    stage: Any, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stage, backend)
    backend.admin().ensure_group("orders", "search")
    in_a_week(monkeypatch)
    backend.admin().reset("orders", "billing", {0: 50})
    look(backend, Keep(age_s=3600.0))
    assert backend.admin().bounds("orders", 0) == (0, 50)
    backend.admin().reset("orders", "search", {0: 30})
    look(backend, Keep(age_s=3600.0))
    first, _ = backend.admin().bounds("orders", 0)
    assert 15 < first <= 30
    assert [one.messages for one in backend.admin().progress("orders", "search")] == [20]


def test_over_its_limit_a_topic_goes_on_and_the_group_gets_an_exact_gap_and_that_is_told(stage: Any, backend: Any) -> None:
    fill(stage, backend)
    backend.admin().reset("orders", "billing", {0: 5})
    reports: list[str] = []
    look(backend, Keep(bytes=4000), reports)
    first, end = backend.admin().bounds("orders", 0)
    assert first > 15
    assert any(f"{first - 5} messages are gone" in text for text in reports)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == end - first)
    (gap,) = [event for event in reading.events if isinstance(event, Gap)]
    assert (gap.start, gap.stop, gap.reason) == (5, first, "retention")
    reading.consumer.close(time.monotonic() + 5)


def test_a_topic_that_was_told_keeps_by_that_in_every_process(stage: Any, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(stage, backend)
    backend.admin().reset("orders", "billing", {0: 50})
    backend.admin().keep("orders", FOREVER)
    in_a_week(monkeypatch)
    with Log.open(backend._opened().path) as other:
        assert other.topic("orders").retention_s == FOREVER
    look(backend, Keep(age_s=1.0))
    assert backend.admin().bounds("orders", 0)[0] == 0
    backend.admin().keep("orders", 60.0)
    look(backend, Keep())
    assert backend.admin().bounds("orders", 0)[0] > 40  # but for the segment that was sealed just now
    with pytest.raises(BackendError):
        backend.admin().keep("missing", 60.0)


@pytest.mark.parametrize("keep", [Keep(age_s=1.0, bytes=2000.0)])
def test_dead_letters_stay_and_retries_go_once_they_are_settled(
    stage: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, keep: Keep
) -> None:
    admin = backend.admin()
    for topic in ("orders.billing.dlq", "orders.billing.retry"):
        admin.ensure_topic(topic, 1)
        fill(stage, backend, topic=topic)
    in_a_week(monkeypatch)
    look(backend, keep)
    assert [admin.bounds(topic, 0)[0] for topic in ("orders.billing.dlq", "orders.billing.retry")] == [0, 0]
    admin.ensure_group("orders.billing.retry", "billing")
    look(backend, keep)
    assert admin.bounds("orders.billing.retry", 0)[0] == 0
    admin.reset("orders.billing.retry", "billing", {0: 20})
    look(backend, keep)
    assert 0 < admin.bounds("orders.billing.retry", 0)[0] <= 20
    assert admin.bounds("orders.billing.dlq", 0)[0] == 0


def test_progress_that_cannot_be_read_holds_everything(stage: Any, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(stage, backend)
    backend.admin().reset("orders", "billing", {0: 50})
    cursors = backend._opened().path / "groups" / "billing" / "cursors" / "orders"
    cursors.write_bytes(b"\xff" * cursors.stat().st_size)
    in_a_week(monkeypatch)
    look(backend, Keep(age_s=1.0))
    assert backend._opened().topic("orders").partition(0).start() == 0


def test_one_process_does_it_and_the_others_do_not(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log, done = backend._opened(), []
    first, second = (Janitor(log, Keep(), lambda text: None) for _ in range(2))
    monkeypatch.setattr(Janitor, "_look_after", lambda self, name: done.append((self, name)))
    first.round()
    second.round()
    assert done == [(first, "orders")]
    os.utime(log.path / STAMP, (0, 0))
    second.round()
    assert done == [(first, "orders"), (second, "orders")]


def test_a_janitor_that_was_stopped_is_replaced_after_its_term(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log, done = backend._opened(), []
    stopped, other = (Janitor(log, Keep(), lambda text: None) for _ in range(2))
    monkeypatch.setattr(Janitor, "_look_after", lambda self, name: done.append(name))
    assert stopped._lock.try_acquire(time.monotonic())
    other.round()
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + module.TERM_S + 1)
    other.round()
    assert done == ["orders"]
    assert not stopped._lock.is_current()
    stopped._lock.release()
    assert (log.path / LOCK).exists()


def open_below(folder: Path) -> int:
    """How many files of this folder the process has open."""
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it has been closed meanwhile
            found += os.readlink(f"/proc/self/fd/{entry}").startswith(str(folder))
    return found


def test_a_topic_that_this_process_does_not_use_is_looked_after_and_closed_again(stage: Any, backend: Any, tmp_path: Path) -> None:
    fill(stage, backend)
    backend.admin().reset("orders", "billing", {0: 50})
    for partition in backend._log.topic("orders").writable():
        partition.sync()  # or its thread opens segments, to sync them, after they have been counted
    with Log.open(tmp_path / "log", durability="interval", limits=SMALL) as log:
        before = open_below(tmp_path)
        (log.path / STAMP).unlink(missing_ok=True)
        Janitor(log, Keep(bytes=2000.0), lambda text: None).round()
        assert log._topics == {}
        deadline = time.monotonic() + 15
        while open_below(tmp_path) > before:  # the janitor of `backend` may be at work at this moment, too
            assert time.monotonic() < deadline
            os.sched_yield()
    assert backend.admin().bounds("orders", 0)[0] > 30


def test_its_thread_looks_by_itself_and_ends_with_the_backend(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    made = LogBackend("log", Options(path=str(tmp_path / "log"), durability="none", keep_size=3000.0), SMALL)
    made.open(time.monotonic() + 5)
    made.admin().ensure_topic("orders", 1)
    fill(stage, made)
    deadline = time.monotonic() + 15
    while not (first := made.admin().bounds("orders", 0)[0]):
        assert time.monotonic() < deadline
        os.sched_yield()
    assert first > 0
    made.close(time.monotonic() + 5)
    assert made._janitor is not None
    assert not made._janitor._thread.is_alive()
