"""The one heap of everything that a machine waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from mqsdk.core.partition import Ownership

Due = Callable[[float, Ownership, Any], None]


class Timers:
    """Calls of `due(now, ownership, subject)`, ordered by time, then by the order they were asked for."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due, Ownership, Any]] = []
        self._count = 0

    def at(self, when: float, due: Due, ownership: Ownership, subject: Any = None) -> None:
        """when: monotonic seconds."""
        self._count += 1
        heappush(self._heap, (when, self._count, due, ownership, subject))

    def next(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> Iterator[tuple[Due, Ownership, Any]]:
        """Everything due by now. What is asked for meanwhile waits for the next feed, so a timer of 0 s cannot spin."""
        newest = self._count
        heap = self._heap
        kept: list[tuple[float, int, Due, Ownership, Any]] = []
        while heap and heap[0][0] <= now:
            timer = heappop(heap)
            if timer[1] > newest:
                kept.append(timer)
            else:
                yield timer[2:]
        for timer in kept:
            heappush(heap, timer)

    def forget(self, ownership: Ownership) -> None:
        """Drop all timers of an ownership that is over, so that none of its records is kept."""
        self._heap[:] = [timer for timer in self._heap if timer[3] is not ownership]
        heapify(self._heap)
