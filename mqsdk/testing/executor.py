"""Executors in virtual time: sync handlers run inline, async ones on an event loop whose clock is the test's.

The loop has a thread of its own (a test may run inside another loop) but never runs by itself: `run_until_idle` lets it go and waits
until every task waits for time, for a thread or for the network.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any, ClassVar, TypeVar, TypeVarTuple

from mqsdk.runtime.clock import Clock
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.tasks import EventLoop, LoopWorkers
from mqsdk.runtime.threads import run_batch, run_each
from mqsdk.runtime.workers import Results, Running, ScanEvent, Task, Workers

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# How long a drain waits, in real time, for what virtual time cannot bring: a thread of the handler's, or its sockets.
REAL_WAIT_S = 10.0
QUIET_NETWORK_S = 0.2


class InlineWorkers(Workers):
    """Sync handlers, run on the stepping thread as soon as their round is decided."""

    def __init__(self, declared: Declared, clock: Clock, results: Results) -> None:
        self._handler = declared.handler
        self._ordered = declared.ordered
        self._clock = clock
        self._results = results
        self._queue: deque[Task] = deque()
        self._running = Running(threading.get_ident())

    def start(self, task: Task) -> None:
        self._queue.append(task)

    def flush(self) -> None:
        run = run_batch if self._handler.batch else run_each
        while self._queue:
            self._running.task = task = self._queue.popleft()
            began = self._clock.mono()
            finished = run(task, self._running.call, self._handler, self._clock.mono, self._ordered)
            self._running.task = None
            self._results.append(finished._replace(elapsed_s=self._clock.mono() - began))

    def resize(self, concurrency: int) -> None:
        """One call at a time, whatever is asked for: virtual time has no parallel sync calls."""

    def running(self) -> Iterator[Running]:
        return iter((self._running,) if self._running.task is not None else ())

    def interrupt(self, running: Running) -> None:
        running.call.cancelled = True

    def close(self, deadline: float) -> int:
        return 0


class SteppedTasks(LoopWorkers):
    """Async handlers on a VirtualLoop. When the loop is idle every running call waits, so what is queued behind one goes back at once."""

    slow_s: ClassVar[float] = -1.0

    def __init__(self, declared: Declared, clock: Clock, results: Results, loop: VirtualLoop, concurrency: int) -> None:
        super().__init__(declared.handler, clock, results, loop, concurrency, declared.ordered)
        self._virtual = loop

    def scan(self, now: float, stuck_after_s: float) -> list[ScanEvent]:
        self._virtual.run_until_idle()
        return super().scan(now, stuck_after_s)


class VirtualLoop(EventLoop):
    """An event loop in lock-step with the thread that calls `run_until_idle`; `asyncio.sleep` takes virtual time."""

    def __init__(self, clock: Clock, name: str = "mqsdk-test-loop") -> None:
        self.clock = clock
        self._selector = _ParkingSelector(clock)
        super().__init__(name, _VirtualTimeLoop(self._selector, clock))

    def run_until_idle(self) -> bool:
        """Let the loop go until nothing is due now; whether it had anything to do. Not from the loop's own thread."""
        return self._selector.go()

    def due(self) -> float | None:
        """Monotonic time of the next timer of any task."""
        return self._selector.due

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
        """Run a coroutine to its end; virtual time moves where it waits for time. TimeoutError when it waits for what never comes."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        end = None if timeout_s is None else self.clock.mono() + timeout_s
        while True:
            self.run_until_idle()
            if future.done():
                return future.result()
            due = self.due()
            if due is None or (end is not None and due > end):
                future.cancel()
                self.run_until_idle()
                raise TimeoutError("the coroutine waits for something that does not come in virtual time")
            self.clock.sleep(max(0.0, due - self.clock.mono()))

    def abandon(self) -> None:
        """Cancel every task, as a crash ends them; their results go nowhere."""
        self.loop.call_soon_threadsafe(_cancel_all, self.loop)
        self.run_until_idle()

    def close(self, timeout_s: float) -> bool:
        self._selector.free()
        return super().close(timeout_s)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time is the test's clock; jobs given to threads and child processes are counted, because idle is only who waits for none of them."""

    def __init__(self, selector: _ParkingSelector, clock: Clock) -> None:
        self._clock_of_test = clock
        super().__init__(selector)
        selector.own_sockets = len(selector.get_map())

    def time(self) -> float:
        return self._clock_of_test.mono()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        parking = self._parking()
        parking.in_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: parking.left_thread())
        return future

    async def subprocess_exec(self, protocol_factory: Callable[[], Any], *args: Any, **more: Any) -> Any:
        return await self._counted(protocol_factory, lambda factory: super(_VirtualTimeLoop, self).subprocess_exec(factory, *args, **more))

    async def subprocess_shell(self, protocol_factory: Callable[[], Any], *args: Any, **more: Any) -> Any:
        return await self._counted(protocol_factory, lambda factory: super(_VirtualTimeLoop, self).subprocess_shell(factory, *args, **more))

    async def _counted(self, make: Callable[[], Any], start: Callable[[Callable[[], Any]], Coroutine[Any, Any, tuple[Any, Any]]]) -> Any:
        """A child process goes on in real time, so it counts as a job given to a thread, until the loop hears of its exit."""
        parking = self._parking()

        def factory() -> Any:
            protocol = make()
            exited = protocol.process_exited

            def process_exited() -> None:
                parking.left_thread()
                exited()

            protocol.process_exited = process_exited
            return protocol

        parking.in_threads += 1
        try:
            return await start(factory)
        except BaseException:
            parking.left_thread()
            raise

    def _parking(self) -> _ParkingSelector:
        selector = self._selector  # type: ignore[attr-defined]  # set by BaseSelectorEventLoop
        assert isinstance(selector, _ParkingSelector)
        return selector


class _ParkingSelector(selectors.BaseSelector):
    """Where the loop comes when nothing is ready: instead of sleeping until its next timer it parks until it is let go again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._real = selectors.DefaultSelector()
        self._turn = threading.Condition()
        self._asked = 0  # how often `go` was called
        self._answered = 0  # the call that the loop has done everything for
        self._free = False
        self._worked = False
        self.due: float | None = None
        self.in_threads = 0
        self.own_sockets = 0

    # --- the test's side ------------------------------------------------------------------------------------------------------

    def go(self) -> bool:
        with self._turn:
            self._worked = False
            self._asked += 1
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: self._answered == self._asked, REAL_WAIT_S * 3):
                raise TimeoutError("an async handler blocks the event loop: it calls something that waits without `await`")
            return self._worked

    def free(self) -> None:
        """From now on behave as any selector, so that the loop can end."""
        with self._turn:
            self._free = True
            self._turn.notify_all()

    # --- the loop's side --------------------------------------------------------------------------------------------------------

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._free:
            return self._real.select(0 if timeout is None else min(timeout, 0.05))
        asked = self._asked  # before looking: what is asked for after an empty look is not answered by it
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._worked = True
            return ready
        ready = self._wait_for_the_real_world()
        if ready:
            return ready
        self.due = None if timeout is None else self._clock.mono() + timeout
        with self._turn:
            self._answered = asked
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._asked > asked or self._free)
        ready = self._real.select(0)
        self._worked = self._worked or bool(ready)
        return ready

    def _wait_for_the_real_world(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Threads and sockets of handlers go on in real time; idle is who waits for neither, or has waited long enough."""
        if self._answered == self._asked:
            return []
        bound = REAL_WAIT_S if self.in_threads else QUIET_NETWORK_S if len(self.get_map()) > self.own_sockets else 0.0
        end = time.monotonic() + bound
        while (left := end - time.monotonic()) > 0:
            ready = self._real.select(left)
            if ready:
                return ready
        return []

    def left_thread(self) -> None:
        self.in_threads -= 1

    # --- a selector like any other ----------------------------------------------------------------------------------------------

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map() or {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()
