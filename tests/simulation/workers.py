"""Handlers as data: how long a call takes and how it ends is drawn. In place of `runtime.threads`, with the rules of its `run_each`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from mqsdk.core.actions import Failure
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.workers import Results, Running, Task, Workers, end_call
from mqsdk.spi import Record

if TYPE_CHECKING:
    from tests.simulation.process import Process

ERROR = Failure("error", "ValueError: no")
TIMED_OUT = Failure("timeout", "TimeoutError: it took too long")


class SimWorkers(Workers):
    """Calls that run at once, up to `concurrency`, in virtual time."""

    def __init__(self, process: Process, declared: Declared, results: Results, concurrency: int) -> None:
        self._process = process
        self._world = process.world
        self._declared = declared
        self._results = results
        self._concurrency = concurrency
        self._queue: deque[Task] = deque()
        self._running: list[Running] = []

    def start(self, task: Task) -> None:
        self._queue.append(task)

    def flush(self) -> None:
        self._begin()

    def resize(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._begin()

    def running(self) -> Iterator[Running]:
        return iter(self._running)

    def stack(self, running: Running) -> str:
        return ""

    def close(self, deadline: float) -> int:
        return len(self._running)

    def interrupt(self, running: Running) -> None:
        """Half of the handlers heed it."""
        running.call.cancelled = True
        record = running.call.record
        if record is not None and self._world.rng.random() < 0.5:
            self._process.after(0.001, lambda: self._ended(running, record, TIMED_OUT))

    def _begin(self) -> None:
        while self._queue and len(self._running) < self._concurrency:
            running = Running()
            running.task = self._queue.popleft()
            running.call.origin, running.call.attempt = running.task.job.origin, running.task.job.attempt
            self._running.append(running)
            self._next(running, self._world.schedule.now)

    def _next(self, running: Running, began: float) -> None:
        """Start what comes next in its task, or end the task."""
        task, call, now = running.task, running.call, self._world.schedule.now
        assert task is not None
        while task.queue:
            record = task.queue.popleft()
            if now >= task.gate.valid_until or self._follows_a_failure(task, record):
                task.skipped.append(record)
                continue
            call.cancelled, call.record = False, record
            call.started, call.deadline = now, now + task.timeout_s
            self._process.rules.started(self._process, task.job, record)
            seconds, failure = self._drawn(record)
            self._process.after(seconds, partial(self._ended, running, record, failure))
            return
        end_call(call)
        self._running.remove(running)
        running.task = None
        self._results.append(task.finished()._replace(elapsed_s=now - began))
        self._begin()

    def _follows_a_failure(self, task: Task, record: Record) -> bool:
        return self._declared.ordered and any(record.key == failed.key for failed, _ in task.failures)

    def _drawn(self, record: Record) -> tuple[float, Failure | None]:
        world, rng = self._world, self._world.rng
        if record.id == world.lethal and not world.rules.is_dead(record.id):
            self._process.after(0.002, self._process.kill)
            return 1.0, None
        seconds = rng.choice((0.0002, 0.004))
        if world.happens("slow"):
            seconds = rng.choice((0.05, 0.4))
        if world.happens("hang"):
            seconds = 12.0
        if world.happens("reject"):
            return seconds, Failure("reject", "no")
        if world.is_poison(record.id) or world.happens("fail"):
            return seconds, ERROR
        return seconds, None

    def _ended(self, running: Running, record: Record, failure: Failure | None) -> None:
        task, call = running.task, running.call
        if task is None or call.record is not record:
            return  # it has ended already
        self._process.rules.ended(self._process, task.job, record, failure is None)
        if failure is not None:
            task.failures.append((record, failure))
        began = call.started
        self._next(running, began)
        self._process.woken(self._results)
