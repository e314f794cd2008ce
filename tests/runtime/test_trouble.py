"""Trouble around a running consumer: nothing of it may end the I/O thread, hold it up, or keep other consumers from leaving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mqsdk.core.deadletter import PREFIX
from mqsdk.errors import Unavailable
from mqsdk.events import DeadLetterDelayed
from mqsdk.spi import Record, Settled
from mqsdk.testing import SimLog
from tests.runtime.test_supervisor import BOUND_S, Process, Recorder, fails, owned


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog())
    yield made
    made.supervisor.close(BOUND_S)


def letters(process: Process) -> list[Record]:
    admin = process.supervisor.clusters.backend("local").admin()
    return [record for number in range(8) for record in admin.read("orders.billing.dlq", number, 0, 10)]


def test_a_full_publish_window_does_not_hold_up_the_thread_that_keeps_the_leases(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = process.supervisor.publisher("orders")
    monkeypatch.setattr(publisher, "has_room", lambda records, size: False)
    monkeypatch.setattr(publisher, "submit", lambda *given, **options: pytest.fail("waited for room"))
    process.start(Recorder(fails(b"bad")), tuning={"retry": {"attempts": 1}})
    process.publish("orders", "bad")
    process.wait(lambda: any(isinstance(event, DeadLetterDelayed) for event in process.events))
    monkeypatch.undo()
    process.wait(lambda: process.lag() == 0)
    assert [record.value for record in letters(process)] == [b"bad"]


def test_a_consumer_that_cannot_leave_keeps_no_other_from_leaving(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.start(Recorder(), group="first")
    process.start(Recorder(), group="second")
    (_, first), (_, second) = process.supervisor.loops

    def close(deadline: float) -> None:
        raise Unavailable("no answer", cluster="local")

    monkeypatch.setattr(first._consumer, "close", close)
    report = process.supervisor.stop(BOUND_S)
    assert not report.clean
    assert second._closed
    assert process.supervisor.loops == []


def test_a_restart_that_fails_itself_is_tried_again(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.01)
    handler = Recorder()
    process.start(handler)
    process.wait(lambda: len(owned(process)) == 8)
    (_, loop) = process.supervisor.loops[0]
    restart, failed = loop._restart, threading.Event()

    def fails_once(error: Exception) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a filter of the application raised in a log call")
        restart(error)

    def poll(max_records: int, timeout_s: float) -> Any:
        raise Unavailable("gone", cluster="local")

    monkeypatch.setattr(loop, "_restart", fails_once)
    broken = loop._consumer
    monkeypatch.setattr(broken, "poll", poll)
    broken.wake()
    process.wait(lambda: loop._consumer is not broken)
    process.publish("orders", "a")
    assert handler.wait_for(1) == [(b"a", 1)]


def test_a_last_settle_whose_answer_is_lost_with_the_connection_does_not_hold_up_a_stop(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.01)
    process.start(Recorder())
    process.wait(lambda: len(owned(process)) == 8)
    (_, loop) = process.supervisor.loops[0]
    poll, cut = loop._consumer.poll, threading.Event()

    def lossy(max_records: int, timeout_s: float) -> Any:
        events = poll(max_records, timeout_s)
        if any(isinstance(event, Settled) for event in events):
            cut.set()
            raise Unavailable("cut", cluster="local")
        return events

    monkeypatch.setattr(loop._consumer, "poll", lossy)
    stopped = threading.Event()

    def stop() -> None:
        process.supervisor.stop(BOUND_S)
        stopped.set()

    thread = threading.Thread(target=stop)
    thread.start()
    assert cut.wait(BOUND_S)
    assert stopped.wait(BOUND_S / 2), "the stop waited for an answer that cannot come"
    thread.join()


def test_the_times_of_a_dead_letter_follow_a_clock_that_was_set(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.start(Recorder(fails(b"bad")), tuning={"retry": {"attempts": 1}})
    wall_ms = process.supervisor.environment.clock.wall_ms
    monkeypatch.setattr(process.supervisor.environment.clock, "wall_ms", lambda: wall_ms() + 3 * 3_600_000)
    set_at = wall_ms()
    process.publish("orders", "bad")
    process.wait(lambda: process.lag() == 0)
    (at,) = [int(value) for record in letters(process) for name, value in record.extra if name == PREFIX + "last-at"]
    assert at >= set_at + 3 * 3_600_000 - 1000
