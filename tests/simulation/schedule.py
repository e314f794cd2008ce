"""Virtual time: one heap of what happens when, ties broken by chance.

Threads are played by nesting: who waits runs the schedule until its moment has come, and what it runs meanwhile may wait in turn. So a
waiter goes on when all that began inside its wait has come to rest, which is one of the ways in which threads may be scheduled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

from tests.simulation.broken import Broken

if TYPE_CHECKING:
    from tests.simulation.process import Process

START_S = 1000.0
# 2026-01-01T00:00:00Z, as the clock of `mqsdk.testing`.
EPOCH_MS = 1_767_225_600_000
AT_ONCE = 3000  # events at one instant, more is a livelock
LONGEST = 60_000  # events of one schedule


class Event(Protocol):
    """As `threading.Event`."""

    def is_set(self) -> bool: ...


class Killed(BaseException):
    """The process in which this is raised is no more. No `except Exception` of the code under test may hold it up."""


class Schedule:
    """wall_shift_ms: how far the wall clock was set from what it would be."""

    def __init__(self, rng: Random) -> None:
        self.now = START_S
        self.wall_shift_ms = 0
        self.events = 0
        self._rng = rng
        self._heap: list[tuple[float, float, Callable[[], object]]] = []
        self._at_once = 0

    def at(self, moment: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (moment, self._rng.random(), call))

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, self._rng.random(), call))

    def run(self, until: float, is_over: Callable[[], bool] | None = None) -> bool:
        """Let happen what is due by then; True when `is_over` ended it before."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            if is_over is not None and is_over():
                return True
            moment, _, call = heapq.heappop(heap)
            self._count(moment)
            call()
        if is_over is not None and is_over():
            return True
        if until > self.now:
            self.now, self._at_once = until, 0
        return False

    def _count(self, moment: float) -> None:
        self.events += 1
        if moment > self.now:
            self.now, self._at_once = moment, 0
        self.spin()

    def spin(self) -> None:
        """Something goes on without time; too often, and it would for ever."""
        self._at_once += 1
        if self._at_once > AT_ONCE:
            raise Broken(f"I12 LIVELOCK: more than {AT_ONCE} events at one instant")
        if self.events > LONGEST:
            raise Broken(f"STUCK: more than {LONGEST} events")

    # --- the clock of who is not simulated ------------------------------------------------------------------------------------------

    def mono(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return EPOCH_MS + self.wall_shift_ms + int((self.now - START_S) * 1000)

    def sleep(self, seconds: float) -> None:
        self.run(self.now + seconds)


class ProcessClock:
    """The clock of one process: a wait in it ends with the process, and not before it is thawed."""

    def __init__(self, schedule: Schedule, process: Process) -> None:
        self._schedule = schedule
        self._process = process

    def mono(self) -> float:
        return self._schedule.now

    def wall_ms(self) -> int:
        return self._schedule.wall_ms()

    def sleep(self, seconds: float) -> None:
        self.wait(seconds, None)

    def wait(self, seconds: float, event: Event | None) -> None:
        self._schedule.run(self._schedule.now + seconds, None if event is None else event.is_set)
        self.check()

    def check(self) -> None:
        if self._schedule.now < self._process.frozen_until:
            self._schedule.run(self._process.frozen_until)
        if self._process.is_dead:
            raise Killed


class Thread:
    """One thread of a process: `step` is called when it is woken, and says when it wants to be called again."""

    def __init__(self, process: Process, step: Callable[[], float | None], latencies: tuple[float, ...]) -> None:
        self._process = process
        self._schedule = process.world.schedule
        self._rng = process.world.rng
        self._step = step
        self._latencies = latencies
        self._next = float("inf")
        self.is_busy = False  # it runs, or waits inside of what it runs
        self._is_woken = False

    def wake(self) -> None:
        """Soon."""
        if self.is_busy:
            self._is_woken = True
        elif self._next > self._schedule.now:
            self.wake_at(self._schedule.now + self._rng.choice(self._latencies))

    def wake_at(self, moment: float) -> None:
        moment = max(moment, self._schedule.now, self._process.frozen_until)
        if moment < self._next:
            self._next = moment
            self._schedule.at(moment, lambda: self._due(moment))

    def _due(self, moment: float) -> None:
        if moment != self._next:
            return  # it was woken before
        self._next = float("inf")
        if self._process.is_dead:
            return
        if self.is_busy:
            self._is_woken = True
        elif self._schedule.now < self._process.frozen_until:
            self.wake_at(self._process.frozen_until)
        else:
            self._run()

    def _run(self) -> None:
        self.is_busy = True
        try:
            again = self._step()
        except Killed:
            return
        finally:
            self.is_busy = False
        if self._is_woken:
            self._is_woken = False
            self.wake()
        if again is not None:
            self.wake_at(again)
