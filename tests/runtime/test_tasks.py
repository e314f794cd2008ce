"""Async workers: concurrency, timeouts by cancellation, foreign cancels, batches."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mqsdk.core.actions import Failure, Job, Overdue
from mqsdk.message import Call, Origin
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.tasks import EventLoop, LoopWorkers
from mqsdk.runtime.workers import Gate, Task
from mqsdk.spi import Partition, Record
from tests.runtime.test_workers import BOUND_S, Collected, exit_code, records

ORIGIN = Origin("orders", "billing", "local", 0, 1)


class Each:
    """An async handler from a coroutine function of the record."""

    is_async = True

    def __init__(self, function: Callable[[Record], Awaitable[Failure | None]], batch: bool = False) -> None:
        self.function = function
        self.batch = batch

    def invoke(self, call: Call) -> Failure | None:
        raise AssertionError("not sync")

    async def invoke_async(self, call: Call) -> Failure | None:
        return await self.function(call.record)

    def invoke_batch(self, call: Call) -> Any:
        raise AssertionError("not sync")

    async def invoke_batch_async(self, call: Call) -> Sequence[tuple[int, Failure]]:
        failures = [(index, await self.function(record)) for index, record in enumerate(call.records)]
        return [(index, failure) for index, failure in failures if failure is not None]


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop("test-loop")
    yield made
    assert made.close(BOUND_S)


def job(items: list[Record], *, token: int = 1, batch: bool = False, timeout_s: float = float("inf"), gate: Gate | None = None) -> Task:
    return Task(Job(token, Partition("orders", 0), ORIGIN, items, 1, batch), gate or Gate(float("inf")), timeout_s)


def workers(
    loop: EventLoop, function: Any, *, concurrency: int = 4, ordered: bool = False, batch: bool = False
) -> tuple[LoopWorkers, Collected]:
    results = Collected()
    return LoopWorkers(Each(function, batch), SystemClock(), results, loop, concurrency, ordered), results


def test_calls_overlap_up_to_the_concurrency(loop: EventLoop) -> None:
    running, peak = 0, 0

    async def handle(record: Record) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        running -= 1

    made, results = workers(loop, handle, concurrency=3)
    for token in range(10):
        made.start(job(records("a"), token=token))
    made.flush()
    results.wait_for(10)
    assert peak == 3
    assert sorted(finished.job.token for finished in results) == list(range(10))


def test_an_overdue_call_is_cancelled_and_counts_as_a_failed_attempt(loop: EventLoop) -> None:
    cleaned: list[int] = []

    async def never_ends(record: Record) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(record.position)

    made, results = workers(loop, never_ends)
    one = job(records("a"), timeout_s=0.001)
    made.start(one)
    made.flush()
    reports: list[Any] = []
    end = time.monotonic() + BOUND_S
    while not reports and time.monotonic() < end:
        reports = made.scan(time.monotonic(), 120.0)
    (report,) = reports
    assert isinstance(report, Overdue)
    assert report.timed_out
    assert "never_ends" in report.stack
    made.cancel_record(one.job, report.record)
    results.wait_for(1)
    ((record, failure),) = results[0].failures
    assert failure.kind == "timeout"
    assert cleaned == [record.position]


def test_a_cancel_that_is_not_ours_is_an_ordinary_failure(loop: EventLoop) -> None:
    async def cancels_itself(record: Record) -> None:
        raise asyncio.CancelledError

    made, results = workers(loop, cancels_itself)
    made.start(job(records("a", "b")))
    made.flush()
    results.wait_for(1)
    assert [failure.kind for _, failure in results[0].failures] == ["error", "error"]


def test_a_fenced_ownership_cancels_running_calls_and_starts_nothing_more(loop: EventLoop) -> None:
    started = asyncio.Event()

    async def handle(record: Record) -> None:
        started.set()
        await asyncio.Event().wait()

    made, results = workers(loop, handle)
    gate = Gate(float("inf"))
    made.start(job(records("a", "b"), gate=gate))
    made.flush()
    loop.run(asyncio.wait_for(started.wait(), BOUND_S))
    gate.valid_until = 0.0
    made.cancel_ownership(Partition("orders", 0), 1)
    results.wait_for(1)
    assert len(results[0].failures) == 1
    assert len(results[0].skipped) == 1


def test_in_an_ordered_job_a_failed_key_stops_its_later_records(loop: EventLoop) -> None:
    async def handle(record: Record) -> Failure | None:
        return Failure("error", "no") if record.position == 0 else None

    made, results = workers(loop, handle, ordered=True)
    items = records("a", "b", "a")
    made.start(job(items))
    made.flush()
    results.wait_for(1)
    assert results[0].skipped == [items[2]]


class TakenInBetween(deque[Record]):
    """What the I/O thread does to a queue between a look at it and the pop."""

    def popleft(self) -> Record:
        self.clear()
        return super().popleft()


def test_a_rest_that_is_taken_back_at_the_last_moment_does_not_lose_the_job(loop: EventLoop) -> None:
    async def handle(record: Record) -> None:
        raise AssertionError("started")

    made, results = workers(loop, handle)
    one = job(records("a"))
    one.queue = TakenInBetween(one.queue)
    made.start(one)
    made.flush()
    results.wait_for(1)
    assert (results[0].failures, results[0].skipped) == ([], [])


def test_a_defect_of_the_worker_is_a_failed_attempt_and_gives_the_rest_back(loop: EventLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(record: Record) -> None:
        raise AssertionError("a handler that raises breaks its contract")

    made, results = workers(loop, handle)
    items = records("a", "b")
    made.start(job(items))
    made.flush()
    results.wait_for(1)
    assert results[0].failures == [(items[0], Failure("error", "AssertionError in the worker"))]
    assert results[0].skipped == [items[1]]
    assert "a worker failed" in caplog.text


def test_a_defect_in_a_batch_is_a_failed_attempt_of_all_of_it(loop: EventLoop) -> None:
    async def handle(record: Record) -> None:
        raise AssertionError("a handler that raises breaks its contract")

    made, results = workers(loop, handle, batch=True)
    items = records("a", "b")
    made.start(job(items, batch=True))
    made.flush()
    results.wait_for(1)
    assert [record for record, _ in results[0].failures] == items
    assert results[0].skipped == []


async def leaves(error: type[BaseException]) -> None:
    raise error


async def in_a_child(error: type[BaseException]) -> None:
    await asyncio.gather(leaves(error))


async def in_a_callback(error: type[BaseException]) -> None:
    def leave() -> None:
        raise error

    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(0)


async def stops_the_loop(error: type[BaseException]) -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(("end", "failed"), [(in_a_child, True), (in_a_callback, False), (stops_the_loop, False)])
def test_nothing_that_a_handler_does_ends_the_loop(loop: EventLoop, error: type[BaseException], end: Any, failed: bool) -> None:
    async def handle(record: Record) -> Failure | None:
        try:
            if record.key == b"bad":
                await end(error)
        except (SystemExit, KeyboardInterrupt):
            return Failure("error", "no")
        return None

    made, results = workers(loop, handle)
    for token, key in enumerate(("bad", "good"), 1):
        made.start(job(records(key), token=token))
    made.flush()
    results.wait_for(2)
    made.start(job(records("later"), token=3))
    made.flush()
    results.wait_for(3)
    assert {finished.job.token: bool(finished.failures) for finished in results} == {1: failed, 2: False, 3: False}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("waits", [False, True])
def test_a_child_that_a_handler_forked_runs_nothing_more_and_ends(loop: EventLoop, tmp_path: Path, waits: bool) -> None:
    parent, ran = os.getpid(), tmp_path / "ran"
    children: list[int] = []

    async def handle(record: Record) -> None:
        with ran.open("a") as file:
            file.write(f"{'parent' if os.getpid() == parent else 'child'} {record.position}\n")
        if record.position == 0 and (child := os.fork()):
            children.append(child)
        if waits:
            await asyncio.sleep(0.001)

    made, results = workers(loop, handle, concurrency=1)
    made.start(job(records("a", "b", "c")))
    made.flush()
    results.wait_for(1)
    assert exit_code(children[0]) == os.EX_SOFTWARE
    assert ran.read_text().splitlines() == ["parent 0", "parent 1", "parent 2"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_child_that_a_handler_forked_no_other_handler_goes_on(loop: EventLoop, tmp_path: Path) -> None:
    parent, ran, go = os.getpid(), tmp_path / "ran", asyncio.Event()
    children: list[int] = []

    async def handle(record: Record) -> None:
        if record.key == b"waits":
            await go.wait()
            with ran.open("a") as file:
                file.write("parent\n" if os.getpid() == parent else "child\n")
            return
        if child := os.fork():
            children.append(child)
        go.set()
        await asyncio.sleep(0)

    made, results = workers(loop, handle)
    made.start(job(records("waits")))
    made.start(job(records("forks"), token=2))
    made.flush()
    results.wait_for(2)
    assert exit_code(children[0]) == os.EX_SOFTWARE
    assert ran.read_text() == "parent\n"


def test_a_batch_is_one_call_with_partial_failure(loop: EventLoop) -> None:
    async def handle(record: Record) -> Failure | None:
        return Failure("error", "no") if record.position == 1 else None

    made, results = workers(loop, handle, batch=True)
    items = records("a", "b", "c")
    made.start(job(items, batch=True))
    made.flush()
    results.wait_for(1)
    assert [record for record, _ in results[0].failures] == [items[1]]
