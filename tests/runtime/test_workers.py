"""Workers on their own: what a task's records become, the start gate, slow and overdue calls."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqsdk.core.actions import Failure, Finished, Job, Overdue, Returned
from mqsdk.message import Call, Origin
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.threads import ThreadWorkers
from mqsdk.runtime.workers import Gate, Task
from mqsdk.spi import Partition, Record

ORIGIN = Origin("orders", "billing", "local", 0, 1)
BOUND_S = 3.0


class Collected(list[Finished]):
    """Results of workers, with a wait for the nth."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def append(self, finished: Finished, /) -> None:
        with self.changed:
            super().append(finished)
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self) >= count, BOUND_S), f"{len(self)} of {count} jobs ended"


class Each:
    """A sync handler from a function of the record."""

    is_async = False
    batch = False

    def __init__(self, function: Callable[[Record], Failure | None]) -> None:
        self.function = function

    def invoke(self, call: Call) -> Failure | None:
        return self.function(call.record)

    async def invoke_async(self, call: Call) -> Failure | None:
        raise AssertionError("not async")

    def invoke_batch(self, call: Call) -> Any:
        raise AssertionError("not batch")

    async def invoke_batch_async(self, call: Call) -> Any:
        raise AssertionError("not batch")


def records(*keys: str) -> list[Record]:
    return [Record(position, key.encode(), b"") for position, key in enumerate(keys)]


def task(items: list[Record], *, valid_until: float = float("inf"), timeout_s: float = float("inf"), token: int = 1) -> Task:
    return Task(Job(token, Partition("orders", 0), ORIGIN, items, 1, batch=False), Gate(valid_until), timeout_s)


def exit_code(child: int) -> int:
    """How a forked child ended; one that does not is killed."""
    end, pause = time.monotonic() + BOUND_S, threading.Event()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        pause.wait(0.005)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1])


@pytest.fixture
def started() -> Iterator[Callable[..., tuple[ThreadWorkers, Collected]]]:
    made: list[ThreadWorkers] = []

    def start(
        function: Callable[[Record], Failure | None], *, concurrency: int = 4, ordered: bool = False
    ) -> tuple[ThreadWorkers, Collected]:
        results = Collected()
        workers = ThreadWorkers(Each(function), SystemClock(), results, "test", concurrency, ordered)
        made.append(workers)
        return workers, results

    yield start
    for workers in made:
        assert workers.close(time.monotonic() + BOUND_S) == 0


def test_a_task_runs_its_records_in_order_and_reports_failures(started: Any) -> None:
    seen: list[int] = []
    failure = Failure("error", "ValueError: no")

    def handle(record: Record) -> Failure | None:
        seen.append(record.position)
        return failure if record.position == 1 else None

    workers, results = started(handle)
    items = records("a", "b", "c")
    workers.start(task(items))
    results.wait_for(1)
    assert seen == [0, 1, 2]
    assert results[0].failures == [(items[1], failure)]
    assert results[0].skipped == []


def test_after_a_failure_later_records_of_the_key_are_skipped_when_ordered(started: Any) -> None:
    seen: list[int] = []

    def handle(record: Record) -> Failure | None:
        seen.append(record.position)
        return Failure("error", "no") if record.position == 0 else None

    workers, results = started(handle, ordered=True)
    items = records("a", "b", "a", "c", "a")
    workers.start(task(items))
    results.wait_for(1)
    assert seen == [0, 1, 3]
    assert results[0].skipped == [items[2], items[4]]


def test_nothing_starts_after_the_gate_is_shut(started: Any) -> None:
    workers, results = started(lambda record: pytest.fail("started"))
    items = records("a", "b")
    workers.start(task(items, valid_until=0.0))
    results.wait_for(1)
    assert results[0].skipped == items


def test_a_gate_shut_in_the_middle_stops_the_rest(started: Any) -> None:
    gate = Gate(float("inf"))

    def handle(record: Record) -> None:
        gate.valid_until = 0.0

    workers, results = started(handle)
    one = task(records("a", "b", "c"))
    one.gate = gate
    workers.start(one)
    results.wait_for(1)
    assert [record.position for record in results[0].skipped] == [1, 2]


def test_the_rest_of_a_job_is_taken_back_when_its_record_is_slow(started: Any) -> None:
    go, inside = threading.Event(), threading.Event()

    def handle(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    workers, results = started(handle)
    items = records("a", "b", "c")
    workers.start(task(items))
    assert inside.wait(BOUND_S)
    returned = [event for event in workers.scan(time.monotonic() + 1.0, 120.0) if isinstance(event, Returned)]
    assert [list(event.records) for event in returned] == [items[1:]]
    go.set()
    results.wait_for(1)
    assert results[0].failures == []
    assert results[0].skipped == []


def test_what_ended_before_a_slow_record_is_reported_with_the_rest(started: Any) -> None:
    go, inside = threading.Event(), threading.Event()
    failure = Failure("error", "no")

    def handle(record: Record) -> Failure | None:
        if record.key == b"slow":
            inside.set()
            assert go.wait(BOUND_S)
        return failure if record.key == b"bad" else None

    workers, results = started(handle)
    items = records("a", "bad", "b", "slow", "c")
    workers.start(task(items))
    assert inside.wait(BOUND_S)
    (returned,) = workers.scan(time.monotonic() + 1.0, 120.0)
    assert isinstance(returned, Returned)
    assert list(returned.handled) == [items[0], items[2]]
    assert list(returned.records) == [items[4]]
    go.set()
    results.wait_for(1)
    assert results[0].failures == [(items[1], failure)]


def test_a_defect_of_the_worker_is_a_failed_attempt_and_gives_the_rest_back(started: Any, caplog: pytest.LogCaptureFixture) -> None:
    failure = Failure("error", "no")

    def handle(record: Record) -> Failure | None:
        if record.key == b"broken":
            raise IndexError("a handler that raises breaks its contract")
        return failure if record.key == b"bad" else None

    workers, results = started(handle)
    items = records("a", "bad", "broken", "b")
    workers.start(task(items))
    results.wait_for(1)
    assert results[0].failures == [(items[1], failure), (items[2], Failure("error", "IndexError in the worker"))]
    assert results[0].skipped == [items[3]]
    assert "a worker failed" in caplog.text


def test_a_thread_that_cannot_be_started_is_tried_again_at_the_next_round(
    started: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, results = started(lambda record: None, concurrency=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        workers.start(task(records("a")))
        workers.start(task(records("b"), token=2))
    assert list(workers.running()) == []
    assert caplog.text.count("cannot start a thread") == 1
    workers.scan(time.monotonic(), 120.0)
    results.wait_for(2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_a_handler_forked_runs_nothing_more_and_ends(started: Any, tmp_path: Path) -> None:
    parent, ran = os.getpid(), tmp_path / "ran"
    children: list[int] = []

    def handle(record: Record) -> None:
        with ran.open("a") as file:
            file.write(f"{'parent' if os.getpid() == parent else 'child'} {record.position}\n")
        if record.position == 0 and (child := os.fork()):
            children.append(child)

    workers, results = started(handle, concurrency=1)
    workers.start(task(records("a", "b", "c")))
    results.wait_for(1)
    assert exit_code(children[0]) == os.EX_SOFTWARE
    assert ran.read_text().splitlines() == ["parent 0", "parent 1", "parent 2"]


def test_an_overdue_call_is_reported_once_with_its_stack_and_told_to_stop(started: Any) -> None:
    go, inside = threading.Event(), threading.Event()

    def a_slow_handler(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    workers, results = started(a_slow_handler)
    (item,) = records("a")
    one = task([item], timeout_s=0.5)
    workers.start(one)
    assert inside.wait(BOUND_S)
    later = time.monotonic() + 1.0
    (report,) = workers.scan(later, 120.0)
    assert isinstance(report, Overdue)
    assert report.record is item
    assert report.timed_out
    assert "a_slow_handler" in report.stack
    assert workers.scan(later, 120.0) == []
    workers.cancel_record(one.job, item)
    assert [running.call.cancelled for running in workers.running()] == [True]
    go.set()
    results.wait_for(1)


def test_the_next_attempt_of_an_overdue_record_is_reported_too(started: Any) -> None:
    """It ran on the same thread, was taken for the call that had been reported, and was never told to stop."""
    go, inside = threading.Semaphore(0), threading.Semaphore(0)

    def handle(record: Record) -> Failure:
        inside.release()
        assert go.acquire(timeout=BOUND_S)
        return Failure("error", "no")

    workers, results = started(handle, concurrency=1)
    (item,) = records("a")
    for attempt in (1, 2):
        workers.start(task([item], timeout_s=0.5, token=attempt))
        assert inside.acquire(timeout=BOUND_S)
        assert [type(event) for event in workers.scan(time.monotonic() + 1.0, 120.0)] == [Overdue]
        go.release()
        results.wait_for(attempt)


def test_a_job_behind_a_hung_handler_gets_a_thread_of_its_own(started: Any) -> None:
    go = threading.Event()

    def handle(record: Record) -> None:
        if record.key == b"hung":
            assert go.wait(BOUND_S)

    workers, results = started(handle, concurrency=2)
    workers.start(task(records("hung")))
    workers.start(task(records("quick"), token=2))
    results.wait_for(1)
    assert [finished.job.token for finished in results] == [2]
    go.set()
    results.wait_for(2)


def test_concurrency_bounds_running_calls_and_may_grow_and_shrink(started: Any) -> None:
    running, peak, lock, go = 0, 0, threading.Lock(), threading.Semaphore(0)
    entered = threading.Semaphore(0)

    def handle(record: Record) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        entered.release()
        assert go.acquire(timeout=BOUND_S)
        with lock:
            running -= 1

    workers, results = started(handle, concurrency=2)
    for token in range(6):
        workers.start(task(records("a"), token=token))
    for _ in range(2):
        assert entered.acquire(timeout=BOUND_S)
    assert not entered.acquire(timeout=0.05)
    workers.resize(3)
    assert entered.acquire(timeout=BOUND_S)
    assert peak == 3
    workers.resize(1)
    for _ in range(6):
        go.release()
    results.wait_for(6)
    assert peak == 3
