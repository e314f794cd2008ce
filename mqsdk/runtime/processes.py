"""`isolation="process"`: each worker is a thread here that owns a process there, and asks it for every call.

All that decides anything (gates, order within a job, what is taken back, epochs) is the threads' own code; only the call itself crosses.
A process that is killed or ends by itself costs one failed attempt, and the next call starts another one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mqsdk.core.actions import Failure, Finished, Job
from mqsdk.errors import DeclarationError
from mqsdk.message import Call
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.handler import Handler
from mqsdk.runtime.isolation import Isolation
from mqsdk.runtime.threads import ThreadWorkers
from mqsdk.runtime.workerprocess import LEAVE_S, StartFailed, Worker
from mqsdk.runtime.workers import Results, Running, ScanEvent, Task
from mqsdk.spi import Partition, Record

log = logging.getLogger("mqsdk.consumer")

AGAIN_FIRST_S, AGAIN_LONGEST_S = 1.0, 30.0
LOOK_S = 0.1


class RemoteRunning(Running):
    """What one worker is doing, and its process. It is the handler that the thread's code calls.

    silent: the record whose process did not say where it stands: it is not asked again, for each question waits.
    """

    __slots__ = ("_clock", "_current", "_lock", "_name", "_timed_out", "batch", "is_async", "silent", "worker")

    def __init__(self, name: str, clock: Clock, batch: bool) -> None:
        super().__init__()
        self.is_async = False
        self.batch = batch
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._current: Record | None = None  # the one that `kill` may mean
        self._timed_out = False
        self.silent: Record | None = None
        self.worker: Worker | None = None

    # --- the thread's side: a Handler ---------------------------------------------------------------------------------------------

    def invoke(self, call: Call) -> Failure | None:
        failures = self._ask(call, [call.record])
        return failures[0][1] if failures else None

    def invoke_batch(self, call: Call) -> Sequence[tuple[int, Failure]]:
        return self._ask(call, call.records)

    async def invoke_async(self, call: Call) -> Failure | None:
        raise AssertionError("the worker process awaits async handlers itself")

    async def invoke_batch_async(self, call: Call) -> Sequence[tuple[int, Failure]]:
        raise AssertionError("the worker process awaits async handlers itself")

    def _ask(self, call: Call, records: Sequence[Record]) -> list[tuple[int, Failure]]:
        worker = self.worker
        assert worker is not None
        with self._lock:
            self._current, self._timed_out, self.silent = call.record, False, None
        try:
            return worker.caller.ask(call, records)
        except OSError:
            failure = self._ended(worker, call)
            return [(index, failure) for index in range(len(records))]
        except BaseException:
            self._ended(worker, call)  # its answer, still to come, would be taken for that of the next call
            raise
        finally:
            with self._lock:
                self._current = None

    def _ended(self, worker: Worker, call: Call) -> Failure:
        """The process is gone in the middle of a call. What is behind the record in its job runs elsewhere."""
        self.worker = None
        how = worker.end()
        self._give_back()
        record, age_s = call.record, self._clock.mono() - call.started
        name = record.id or record.ref
        if self._timed_out:
            log.error("%s: worker process %d was killed: message %s ran longer than its timeout", self._name, worker.pid, name)
            return Failure("timeout", f"HandlerTimeout: killed after {age_s:.3g} s")
        log.error(
            "%s: worker process %d %s while it ran message %s, which has failed; a new process follows."
            " Native code that crashed, os._exit, or the kernel for want of memory (see its log) may have done it",
            self._name, worker.pid, how, name,
        )  # fmt: skip
        return Failure("error", f"WorkerDied: the worker process {how}")

    def _give_back(self) -> None:
        task = self.task
        with suppress(IndexError):  # the I/O thread may be taking them back from the other end
            while task is not None:
                task.skipped.append(task.queue.popleft())

    # --- any thread -----------------------------------------------------------------------------------------------------------------

    def kill(self, record: Record) -> None:
        """The call of this record has passed its timeout. Nothing happens when it has ended meanwhile."""
        with self._lock:
            worker = self.worker
            if self._current is record and worker is not None:
                self._timed_out = True
                worker.kill()

    def cancel(self, partition: Partition, epoch: int) -> None:
        """Tell the running call that its ownership is over, if it is of that one."""
        with self._lock:  # while it is held no other call begins
            worker, task = self.worker, self.task
            if self._current is None or worker is None or task is None:
                return
            if task.job.partition == partition and task.job.origin.epoch == epoch:
                worker.tell_cancelled()

    def end(self) -> None:
        """Kill the process, whatever it does."""
        worker = self.worker
        if worker is not None:
            worker.kill()

    def end_rest(self) -> None:
        """Its process is gone, and what a handler forked there keeps the line open: end that too, so that the thread hears of it."""
        worker = self.worker
        if worker is not None and not worker.is_alive():
            worker.kill()


class ProcessWorkers(ThreadWorkers):
    """Handlers in worker processes, `concurrency` of them at most, each started when a job needs it.

    The first one is started at once, so that an application which cannot be imported there fails the start: DeclarationError.
    """

    def __init__(
        self, handler: Handler, isolation: Isolation, clock: Clock, results: Results, name: str, concurrency: int, ordered: bool
    ) -> None:
        self._isolation = isolation
        self._closing = threading.Event()
        self._consumer = name
        self._spare = [_first(isolation, clock, name)]
        super().__init__(handler, clock, results, f"mqsdk-{name}", concurrency, ordered)

    def _new_running(self) -> RemoteRunning:
        return RemoteRunning(self._consumer, self._clock, self._handler.batch)

    def _work(self, running: Running) -> None:
        assert isinstance(running, RemoteRunning)
        try:
            super()._work(running)
        finally:
            if running.worker is not None:
                running.worker.leave()

    def _runs(self, task: Task, running: Running, handler: Handler) -> Finished:
        assert isinstance(running, RemoteRunning)
        if not self._is_served(running, task):
            skipped = list(task.queue)
            task.queue.clear()
            return Finished(task.job, (), skipped)
        return super()._runs(task, running, running)

    def _is_served(self, running: RemoteRunning, task: Task) -> bool:
        """Have a process, before any of the task's time counts. False when the task may not start any more, or all is being closed."""
        wait_s = AGAIN_FIRST_S
        while not self._closing.is_set() and self._clock.mono() < task.gate.valid_until:
            try:
                self._serve(running)
                return True
            except StartFailed as error:
                log.error("%s: a worker process cannot be started and is tried again in %.0f s: %s", self._consumer, wait_s, error)
                self._pause(task, wait_s)
                wait_s = min(wait_s * 2, AGAIN_LONGEST_S)
        return False

    def _pause(self, task: Task, wait_s: float) -> None:
        end = self._clock.mono() + wait_s
        while (now := self._clock.mono()) < min(end, task.gate.valid_until) and not self._closing.wait(min(LOOK_S, end - now)):
            pass

    def _serve(self, running: RemoteRunning) -> None:
        worker, running.worker = running.worker, None
        if worker is not None and not worker.is_alive():
            log.warning("%s: the idle worker process %d %s; a new one follows", self._consumer, worker.pid, worker.end())
            worker = None
        if worker is None and self._spare:
            with suppress(IndexError):
                worker = self._spare.pop()
        if worker is None:
            worker = Worker(self._isolation, self._clock)
            running.worker = worker  # before it serves, so that a close finds it
            try:
                worker.await_ready()
            except StartFailed:
                running.worker = None
                raise
        running.worker = worker

    # --- the I/O thread's side ------------------------------------------------------------------------------------------------------

    def scan(self, now: float, stuck_after_s: float) -> list[ScanEvent]:
        for running in self._remote():
            if running.call.started and now - running.call.started > LOOK_S:
                running.end_rest()
        return super().scan(now, stuck_after_s)

    def cancel_ownership(self, partition: Partition, epoch: int) -> None:
        for running in self._remote():
            running.cancel(partition, epoch)

    def cancel_record(self, job: Job, record: Record) -> None:
        for running in self._remote():
            if running.task is not None and running.task.job is job and running.call.record is record:
                running.kill(record)

    def stack(self, running: Running) -> str:
        assert isinstance(running, RemoteRunning)
        worker, record = running.worker, running.call.record
        if worker is None or record is None or running.silent is record:
            return ""
        text = worker.stack()
        if not text:
            running.silent = record
        return text

    def close(self, deadline: float) -> int:
        """What still runs at the deadline is killed, and waited for: nothing of it is left when the partitions go to somebody else."""
        self._closing.set()
        super().close(deadline)
        alive = [running for thread, running in self._threads.items() if thread.is_alive() and isinstance(running, RemoteRunning)]
        cut = sum(1 for running in alive if running.call.started)
        for running in alive:
            running.end()
        for thread in self._threads:
            thread.join(LEAVE_S)
        while self._spare:
            self._spare.pop().leave()
        return cut

    def _remote(self) -> Iterator[RemoteRunning]:
        return (running for running in self.running() if isinstance(running, RemoteRunning))


def _first(isolation: Isolation, clock: Clock, name: str) -> Worker:
    try:
        worker = Worker(isolation, clock)
        worker.await_ready()
    except StartFailed as error:
        raise DeclarationError(
            f"the worker process of {name} cannot be started: {error}",
            where='isolation="process"',
            fix='what it wrote to stderr shows where; leave out isolation="process" to run the handler in threads',
        ) from None
    return worker
