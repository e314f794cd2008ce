"""Async handlers: one event-loop thread for all consumers of a process, one asyncio task per job.

asyncio is imported here and only when an async handler starts: it costs 40 ms and 11 MB that sync applications need not pay.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any

from mqsdk.core.actions import Failure, Finished
from mqsdk.message import Call
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.handler import Handler
from mqsdk.runtime.stacks import STACK_FRAMES, stack_text, thread_stack
from mqsdk.runtime.workers import (
    Results,
    Running,
    Task,
    Workers,
    begin_batch,
    end_call,
    end_child,
    of_this_process,
    shut,
)
from mqsdk.spi import Record

log = logging.getLogger("mqsdk.consumer")


RESTART_S = 1.0


class EventLoop:
    """A running event loop on its own daemon thread. `close` cancels what is left. loop: one that is not running yet, None = a new one."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = asyncio.new_event_loop() if loop is None else loop
        self._ended = False
        self._pause = threading.Event()
        self.name = name
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._ended:
                self._turn()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _turn(self) -> None:
        """asyncio lets SystemExit and KeyboardInterrupt of a task or callback out of the loop, and `loop.stop()` ends it: it goes on.

        The task has ended with that exception by then, and whoever awaits it sees it.
        """
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            log.error("%s out of a task or callback of the event loop; the loop goes on", type(error).__name__, exc_info=error)
        except Exception as error:  # asyncio keeps all others inside, so this is the loop itself
            log.error("the event loop failed and is started again in %.0f s", RESTART_S, exc_info=error)
            self._pause.wait(RESTART_S)
        if self.loop.is_closed():
            self._ended = True

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
        """Run a coroutine there and wait for its result; any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def is_current_thread(self) -> bool:
        return self._thread is threading.current_thread()

    def stack(self) -> str:
        """What the loop's thread is doing now."""
        return thread_stack(self._thread.ident or 0)

    def close(self, timeout_s: float) -> bool:
        """False when the loop's thread did not end in time: a handler blocks it."""
        if self.loop.is_closed():
            return True
        self.loop.call_soon_threadsafe(self._cancel_all)
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            gathered = asyncio.gather(*tasks, return_exceptions=True)
            gathered.add_done_callback(lambda _: self._end())
        else:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self.loop.stop()


class _RunningTask(Running):
    """A running call and the asyncio task that carries it. `interrupted` tells our cancel from anybody else's."""

    __slots__ = ("interrupted", "task_of_loop")

    def __init__(self) -> None:
        super().__init__()
        self.task_of_loop: asyncio.Task[None] | None = None
        self.interrupted = False


class LoopWorkers(Workers):
    """Async handlers. `start` collects, `flush` crosses to the loop once per round (3.7 us a crossing)."""

    def __init__(self, handler: Handler, clock: Clock, results: Results, loop: EventLoop, concurrency: int, ordered: bool) -> None:
        self._handler = handler
        self._clock = clock
        self._results = results
        self._loop = loop
        self._concurrency = concurrency
        self._ordered = ordered
        self._inbox: deque[Task] = deque()
        self._live: dict[_RunningTask, None] = {}
        self._left = False
        of_this_process.add(self)

    def start(self, task: Task) -> None:
        self._inbox.append(task)

    def flush(self) -> None:
        if self._inbox:
            self._loop.loop.call_soon_threadsafe(self._pump)

    def resize(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._loop.loop.call_soon_threadsafe(self._pump)

    def running(self) -> Iterator[Running]:
        return iter(list(self._live))

    def interrupt(self, running: Running) -> None:
        assert isinstance(running, _RunningTask)
        running.call.cancelled = True
        self._loop.loop.call_soon_threadsafe(self._cancel, running, running.call.record)

    def close(self, deadline: float) -> int:
        return len(self._live)

    def leave(self) -> None:
        self._left = True
        self._inbox.clear()
        for running in self._live:
            shut(running)
        if self._loop.is_current_thread():  # at the next wait of the handler: other tasks of the loop are the parent's too
            self._loop.loop.call_soon(self._end_child)

    # --- on the loop's thread ---------------------------------------------------------------------------------------------------

    def _end_child(self) -> None:
        end_child(self._loop.name)

    def _cancel(self, running: _RunningTask, record: Record) -> None:
        if running.call.record is record and running.task_of_loop is not None:
            running.interrupted = True
            running.task_of_loop.cancel()

    def _pump(self) -> None:
        while self._inbox and len(self._live) < self._concurrency:
            running = _RunningTask()
            running.task = self._inbox.popleft()
            self._live[running] = None
            running.task_of_loop = self._loop.loop.create_task(self._carry(running, running.task))

    async def _carry(self, running: _RunningTask, task: Task) -> None:
        began = self._clock.mono()
        run = self._run_batch if self._handler.batch else self._run_each
        try:
            finished = await run(running, task)
        except BaseException as error:  # a defect of ours, or the loop is being closed: the job must not vanish
            finished = task.broken(error, running.call)
        if self._left:
            self._end_child()
        end_call(running.call)
        del self._live[running]
        self._results.append(finished._replace(elapsed_s=self._clock.mono() - began))
        if self._inbox:
            self._pump()

    async def _run_each(self, running: _RunningTask, task: Task) -> Finished:
        gate, call, mono, pop = task.gate, running.call, self._clock.mono, task.queue.popleft
        failures, skipped = task.failures, task.skipped
        call.origin = task.job.origin
        call.attempt = task.job.attempt
        while True:
            try:
                record = pop()  # asking first whether there is one would race with the I/O thread, which may take the rest back
            except IndexError:
                break
            now = mono()
            if now >= gate.valid_until or (self._ordered and any(record.key == failed.key for failed, _ in failures)):
                skipped.append(record)
                continue
            call.cancelled = False
            call.deadline = now + task.timeout_s
            call.record = record
            call.started = now
            failure = await self._guarded(running, self._handler.invoke_async(call), call)
            if failure is not None:
                failures.append((record, failure))
        return task.finished()

    async def _guarded(self, running: _RunningTask, coroutine: Coroutine[Any, Any, Failure | None], call: Call) -> Failure | None:
        """Turn a cancel into a failed attempt: ours is a timeout, anybody else's is the handler's own doing."""
        try:
            return await coroutine
        except asyncio.CancelledError:
            return self._cancelled(running, call)

    def _cancelled(self, running: _RunningTask, call: Call) -> Failure:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            task.uncancel()
        if running.interrupted:
            running.interrupted = False
            return Failure("timeout", f"HandlerTimeout: cancelled after {self._clock.mono() - call.started:.3g} s")
        return Failure("error", "CancelledError: the handler was cancelled")

    async def _run_batch(self, running: _RunningTask, task: Task) -> Finished:
        records = list(task.queue)
        task.queue.clear()
        now = self._clock.mono()
        if now >= task.gate.valid_until:
            return Finished(task.job, (), records)
        begin_batch(task, running.call, records, now)
        try:
            failed = await self._handler.invoke_batch_async(running.call)
        except asyncio.CancelledError:
            failure = self._cancelled(running, running.call)
            failed = [(index, failure) for index in range(len(records))]
        return Finished(task.job, [(records[index], failure) for index, failure in failed])

    def stack(self, running: Running) -> str:
        task = running.task_of_loop if isinstance(running, _RunningTask) else None
        return "" if task is None else _awaited(task.get_coro()) or self._loop.stack()


def _awaited(coroutine: Any) -> str:
    """Where a suspended task waits, outermost first. `Task.get_stack` shows its first frame only. "" while the task is on the processor."""
    frames: list[Any] = []
    while coroutine is not None and len(frames) < STACK_FRAMES:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        if getattr(coroutine, "cr_running", False):
            return ""
        coroutine = getattr(coroutine, "cr_await", None)
    return stack_text(frames)
