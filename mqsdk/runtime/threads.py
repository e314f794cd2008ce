"""Threads for sync handlers: started when jobs need them, one job at a time each."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from mqsdk.core.actions import Finished
from mqsdk.message import Call
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.handler import Handler
from mqsdk.runtime.workers import (
    Results,
    Running,
    ScanEvent,
    Task,
    Workers,
    begin_batch,
    end_call,
    end_child,
    of_this_process,
    shut,
)

log = logging.getLogger("mqsdk.consumer")


class ThreadWorkers(Workers):
    """Sync handlers. Threads are started when jobs need them, up to `concurrency`.

    They are daemons, so that a hung handler cannot keep the process alive.
    """

    def __init__(self, handler: Handler, clock: Clock, results: Results, name: str, concurrency: int, ordered: bool) -> None:
        self._handler = handler
        self._clock = clock
        self._results = results
        self._name = name
        self._concurrency = concurrency
        self._ordered = ordered
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: dict[threading.Thread, Running] = {}
        self._surplus = 0
        self._started = 0
        self._outstanding = 0
        self._too_few = False  # a thread could not be started; each scan tries again
        self._left = False
        of_this_process.add(self)

    def start(self, task: Task) -> None:
        self._outstanding += 1
        self._queue.put(task)
        self._grow_to_need()

    def flush(self) -> None:
        # The woken worker needs the interpreter lock, and this thread would keep it until its next blocking call: a lone message is
        # in its handler 50 us earlier, and eight threads of 1 ms handlers do 9 % more.
        os.sched_yield()

    def ended(self, jobs: int) -> None:
        self._outstanding -= jobs

    def _grow_to_need(self) -> None:
        # Counted by jobs given out and come back, both seen by this thread: whether a thread looks idle is a race, and a job behind a
        # hung handler would then wait although a thread could be started for it.
        while len(self._threads) - self._surplus < min(self._concurrency, self._outstanding):
            if not self._grow():
                return

    def _grow(self) -> bool:
        """One thread more. False when the system has none now: the job waits in the queue, which must not look like one that runs."""
        running = self._new_running()
        thread = threading.Thread(target=self._work, args=(running,), name=f"{self._name}-{self._started + 1}", daemon=True)
        self._threads[thread] = running  # before the start: from then on it may be inside a handler
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            del self._threads[thread]
            if not self._too_few:
                log.error("%s cannot start a thread and tries again: %s", self._name, error)
            self._too_few = True
            return False
        self._started += 1
        self._too_few = False
        return True

    def _new_running(self) -> Running:
        return Running()

    def scan(self, now: float, stuck_after_s: float) -> list[ScanEvent]:
        if self._too_few:
            self._grow_to_need()
        return super().scan(now, stuck_after_s)

    def resize(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._bury()
        while len(self._threads) - self._surplus > concurrency:
            self._surplus += 1
            self._queue.put(None)
        self._grow_to_need()

    def _bury(self) -> None:
        for thread in [thread for thread in self._threads if not thread.is_alive()]:
            del self._threads[thread]
            self._surplus -= 1

    def running(self) -> Iterator[Running]:
        return iter(list(self._threads.values()))

    def interrupt(self, running: Running) -> None:
        running.call.cancelled = True

    def close(self, deadline: float) -> int:
        for _ in range(len(self._threads) - self._surplus):
            self._queue.put(None)
        self._surplus = len(self._threads)
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.mono()))
        return sum(1 for thread in self._threads if thread.is_alive())

    def leave(self) -> None:
        self._left = True
        for running in self._threads.values():
            shut(running)

    def _work(self, running: Running) -> None:
        running.thread_id = threading.get_ident()
        get, append, mono = self._queue.get, self._results.append, self._clock.mono
        while (task := get()) is not None:
            running.reported = None  # the next attempt of the record that was reported may come to this thread
            running.task = task
            began = mono()
            try:
                finished = self._runs(task, running, self._handler)
            except BaseException as error:  # a defect of ours: neither the thread nor the job may vanish
                finished = task.broken(error, running.call)
            if self._left:
                end_child(self._name)
            end_call(running.call)
            finished = finished._replace(elapsed_s=mono() - began)
            running.task = None
            append(finished)

    def _runs(self, task: Task, running: Running, handler: Handler) -> Finished:
        run = run_batch if self._handler.batch else run_each
        return run(task, running.call, handler, self._clock.mono, self._ordered)


def run_each(task: Task, call: Call, handler: Handler, mono: Callable[[], float], ordered: bool) -> Finished:
    """Run the records of a task one by one. The hot loop of sync handlers: no lock, one clock reading per record."""
    gate, timeout_s, invoke, pop = task.gate, task.timeout_s, handler.invoke, task.queue.popleft
    failures, skipped = task.failures, task.skipped
    call.origin = task.job.origin
    call.attempt = task.job.attempt
    while True:
        try:
            record = pop()
        except IndexError:
            return task.finished()
        now = mono()
        if now >= gate.valid_until or (ordered and failures and any(record.key == failed.key for failed, _ in failures)):
            skipped.append(record)
            continue
        call.cancelled = False
        call.deadline = now + timeout_s
        call.record = record
        call.started = now
        failure = invoke(call)
        if failure is not None:
            failures.append((record, failure))


def run_batch(task: Task, call: Call, handler: Handler, mono: Callable[[], float], ordered: bool) -> Finished:
    """Run all records of a task in one call."""
    job, records = task.job, list(task.queue)
    task.queue.clear()
    now = mono()
    if now >= task.gate.valid_until:
        return Finished(job, (), records)
    begin_batch(task, call, records, now)
    failed = handler.invoke_batch(call)
    return Finished(job, [(records[index], failure) for index, failure in failed])
