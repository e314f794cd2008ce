"""Where handlers run: threads for sync functions, one shared event loop for async ones.

The I/O thread of a consumer hands a Job over as a Task and gets a Finished back through `results`; both directions cost per job, not per
message. Only the I/O thread calls the methods of a Workers object; workers touch nothing but their own Task, Call and `results`.
"""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, Protocol

from mqsdk.core.actions import Failure, Finished, Job, Overdue, Returned
from mqsdk.message import Call
from mqsdk.runtime.stacks import thread_stack
from mqsdk.spi import Partition, Record

log = logging.getLogger("mqsdk.consumer")

# A record that runs longer than this must not keep the others of its job waiting: they go back to the machine.
SLOW_S = 0.005


class Gate:
    """Start gate of one ownership: nothing starts at or after `valid_until` (monotonic seconds).

    Written by the I/O thread; a drain shuts it from any thread.
    """

    __slots__ = ("valid_until",)

    def __init__(self, valid_until: float) -> None:
        self.valid_until = valid_until


class Task:
    """A job on its way through a worker. `queue` holds what has not started; both ends are popped without a lock (deque is atomic)."""

    __slots__ = ("failures", "gate", "job", "queue", "returned", "skipped", "timeout_s")

    def __init__(self, job: Job, gate: Gate, timeout_s: float) -> None:
        self.job = job
        self.gate = gate
        self.timeout_s = timeout_s
        self.queue: deque[Record] = deque(job.records)
        self.failures: list[tuple[Record, Failure]] = []
        self.skipped: list[Record] = []
        self.returned = len(job.records) == 1 or job.batch

    def finished(self) -> Finished:
        return Finished(self.job, self.failures, self.skipped)

    def broken(self, error: BaseException, call: Call) -> Finished:
        """The worker itself failed in this call: a failed attempt of the current record, so that it does not come back for ever.

        What is behind it runs again, what ended before it has ended. Without a current record everything that has not failed runs again.
        """
        log.error("a worker failed; the current record has failed, those behind it run again", exc_info=error)
        records = self.job.records
        failed = {record.position for record, _ in self.failures}
        current = [record for record in call.records or (call.record,) if record is not None]
        start = next((index for index, record in enumerate(records) if record in current), 0)
        failure = Failure("error", f"{type(error).__name__} in the worker")
        self.failures += [(record, failure) for record in current if record.position not in failed]
        failed.update(record.position for record in current)
        behind = [record for record in records[start:] if record.position not in failed]
        return Finished(self.job, self.failures, [*self.skipped, *behind])

    def take_back(self, call: Call) -> Returned | None:
        """What need not wait for the current record: those behind it, and the outcome of those before it. Called by the I/O thread once.

        The queue is emptied first: from then on the worker runs no other record, so `call.record` is the current one, or the one before
        it (which then stays with Finished, as the failed and skipped ones do).
        """
        self.returned = True
        rest, current = self._take_rest(), call.record
        if current is None:
            return Returned(self.job, rest) if rest else None
        left = {current.position} | {record.position for record, _ in self.failures} | {record.position for record in self.skipped}
        handled: list[Record] = []
        for record in self.job.records:
            if record.position == current.position:
                break
            if record.position not in left:
                handled.append(record)
        return Returned(self.job, rest, handled) if rest or handled else None

    def _take_rest(self) -> list[Record]:
        rest: deque[Record] = deque()
        try:
            while True:
                rest.appendleft(self.queue.pop())
        except IndexError:
            return list(rest)


class Running:
    """What one worker is doing; read by the I/O thread to find slow and overdue calls."""

    __slots__ = ("call", "reported", "task", "thread_id")

    def __init__(self, thread_id: int = 0) -> None:
        self.call = Call()
        self.task: Task | None = None
        self.thread_id = thread_id
        self.reported: tuple[Any, bool] | None = None


ScanEvent = Returned | Overdue


class Results(Protocol):
    """Where workers put what ended; `append` wakes the I/O thread when it sleeps."""

    def append(self, finished: Finished, /) -> None: ...


class Workers(ABC):
    """The executor of one consumer. slow_s: how long the current record of a job may take before the rest of it goes back."""

    slow_s: ClassVar[float] = SLOW_S

    @abstractmethod
    def start(self, task: Task) -> None:
        """Queue a task; never blocks."""

    def flush(self) -> None:  # noqa: B027 - most executors have nothing to flush
        """Called once after a round of `start`."""

    def ended(self, jobs: int) -> None:  # noqa: B027 - only threads are counted
        """Called with the number of jobs whose Finished was read."""

    @abstractmethod
    def resize(self, concurrency: int) -> None:
        """How many calls may run at once; a running call is never cut by it."""

    @abstractmethod
    def running(self) -> Iterator[Running]:
        """Workers that may be inside a call."""

    @abstractmethod
    def interrupt(self, running: Running) -> None:
        """Make a running call stop early: async calls are cancelled, threads see `message.cancelled`."""

    @abstractmethod
    def close(self, deadline: float) -> int:
        """Stop the workers; how many calls still run at the deadline (monotonic seconds)."""

    def leave(self) -> None:  # noqa: B027 - executors of tests have no threads to fork in
        """In a child that a handler forked: start nothing more, and end the process when the handler returns. Takes no lock."""

    def scan(self, now: float, stuck_after_s: float) -> list[ScanEvent]:
        """Rests of jobs whose current record is slow, and calls that passed their timeout or `stuck_after_s`."""
        events: list[ScanEvent] = []
        for running in self.running():
            task, call, started = running.task, running.call, running.call.started
            if task is None or started == 0.0:
                continue
            if now - started > self.slow_s and not task.returned and (returned := task.take_back(call)) is not None:
                events.append(returned)
            events += self._overdue(running, task, call, now, stuck_after_s)
        return events

    def _overdue(self, running: Running, task: Task, call: Call, now: float, stuck_after_s: float) -> list[ScanEvent]:
        record, timed_out = call.record, now >= call.deadline
        if record is None or not (timed_out or now - call.started > stuck_after_s) or running.reported == (record, timed_out):
            return []
        running.reported = (record, timed_out)
        return [Overdue(task.job, record, now - call.started, timed_out, self.stack(running))]

    def next_scan(self, now: float, stuck_after_s: float) -> float | None:
        """Seconds until `scan` may find something, None when nothing runs."""
        soonest: float | None = None
        for running in self.running():
            task, call, started = running.task, running.call, running.call.started
            if task is None or started == 0.0:
                continue
            wait = self.slow_s if not task.returned else min(_not_past(call.deadline, now), _not_past(started + stuck_after_s, now))
            soonest = wait if soonest is None else min(soonest, wait)
        return soonest

    def cancel_ownership(self, partition: Partition, epoch: int) -> None:
        """Interrupt the calls of an ownership that is over."""
        for running in self.running():
            task = running.task
            if task is not None and task.job.partition == partition and task.job.origin.epoch == epoch:
                self.interrupt(running)

    def cancel_record(self, job: Job, record: Record) -> None:
        """Interrupt the call of one record, if it still runs."""
        for running in self.running():
            if running.task is not None and running.task.job is job and running.call.record is record:
                self.interrupt(running)

    def stack(self, running: Running) -> str:
        """Code places of a running handler, innermost last; no values."""
        return thread_stack(running.thread_id)


# Workers whose records a fork must not double. Module-wide because the interpreter's hook is, and cannot be taken back.
of_this_process: weakref.WeakSet[Workers] = weakref.WeakSet()


def _leave_all() -> None:
    for workers in list(of_this_process):
        workers.leave()
    of_this_process.clear()


os.register_at_fork(after_in_child=_leave_all)


def shut(running: Running) -> None:
    """Start none of the records that are left of this worker's task."""
    task = running.task
    if task is not None:
        task.gate.valid_until = 0.0


def end_child(name: str) -> NoReturn:
    """The child of a fork came back from a handler. The records are its parent's, and so are the buffers: nothing is flushed twice."""
    log.error("%s: a handler forked and its child returned; the child ends here (os._exit in the child is missing)", name)
    os._exit(os.EX_SOFTWARE)


def _not_past(moment: float, now: float) -> float:
    """Seconds until a moment; one that has passed was reported already and does not ask for another scan."""
    return moment - now if moment > now else float("inf")


def begin_batch(task: Task, call: Call, records: list[Record], now: float) -> None:
    """Set the call up for a batch; `record` is its first, so that reports name a message."""
    call.origin = task.job.origin
    call.attempt = task.job.attempt
    call.cancelled = False
    call.deadline = now + task.timeout_s
    call.records = records
    call.record = records[0]
    call.started = now


def end_call(call: Call) -> None:
    """The call is over: nothing of it is running, and its Message says so."""
    call.started = 0.0
    call.record = None
    call.records = None
