"""Records of a SimLog that wait for their due time. All with the store's lock held."""

from __future__ import annotations

import heapq
from itertools import count

from mqsdk.spi import NewRecord, Partition


class Delayed:
    """A heap by due time; what is due at the same millisecond keeps the order of publishing."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, NewRecord]] = []
        self._serials = count()

    def put(self, new: NewRecord, due_ms: int) -> None:
        heapq.heappush(self._heap, (due_ms, next(self._serials), new))

    def due_ms(self) -> int | None:
        """Wall-clock milliseconds of the next one."""
        return self._heap[0][0] if self._heap else None

    def count(self, partition: Partition) -> int:
        """How many wait for a place in this partition."""
        return sum(1 for item in self._heap if item[2].partition == partition)

    def take(self, now_ms: int) -> list[tuple[Partition, NewRecord]]:
        """Everything that is due, in the order in which it takes its place."""
        taken: list[tuple[Partition, NewRecord]] = []
        while self._heap and self._heap[0][0] <= now_ms:
            new = heapq.heappop(self._heap)[2]
            taken.append((new.partition, new))
        return taken

    def drop(self, topic: str) -> None:
        """Its topic is deleted."""
        self._heap = [item for item in self._heap if item[2].partition.topic != topic]
        heapq.heapify(self._heap)
