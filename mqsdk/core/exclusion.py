"""One message of a key at a time over two topics: partition p of a topic and of its group's retry topic are twins.

A redriven message comes from the retry topic, a new one of its key from the topic, each in an ownership of its own. Both are handed out by
one machine, so it is enough that a key which runs from one twin is set aside in the other until it has ended. What waits for a retry does
not run: between the twins there is no order to keep, only overlap to avoid. Costs nothing before the retry topic has been assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from mqsdk.core.actions import Job, Spec
from mqsdk.core.lanes import Key, Lanes
from mqsdk.core.partition import Ownership
from mqsdk.spi.events import Partition, Record


class Running(Protocol):
    """A job that was given out, and those of its records that still run."""

    job: Job
    records: list[Record]


class Exclusion:
    """Of one consumer. `resumed` is told an ownership in which something that was set aside may start now."""

    def __init__(self, spec: Spec, resumed: Callable[[Ownership], None]) -> None:
        self._topics = (spec.topic, spec.retry)
        self._is_on = spec.ordered and spec.retry is not None
        self._resumed = resumed
        self._owned: dict[Partition, Ownership] = {}
        self._keys: dict[Partition, dict[Key, int]] = {}

    def owned(self, ownership: Ownership, running: Iterable[Running]) -> None:
        """A new ownership. running: all jobs that are out, of whatever ownership: handlers may outlive theirs."""
        if not self._is_on:
            return
        mine, twin = ownership.partition, self._twin(ownership.partition)
        self._owned[mine] = ownership
        if twin in self._keys or mine.topic == self._topics[1]:
            jobs = list(running)
            for partition in (mine, twin):
                self._count(partition, jobs)
            for one in (mine, twin):
                self._show(one)

    def _twin(self, partition: Partition) -> Partition:
        topic, retry = self._topics
        return Partition(str(retry) if partition.topic == topic else topic, partition.number)

    def _count(self, partition: Partition, running: Iterable[Running]) -> None:
        """Begin to count what runs from this partition; for good, because handlers may outlive every ownership."""
        if partition not in self._keys:
            self._keys[partition] = {}
            for run in running:
                if run.job.partition == partition:
                    self.started(partition, run.records)

    def _show(self, partition: Partition) -> None:
        ownership = self._owned.get(partition)
        if ownership is not None and isinstance(ownership.queue, Lanes):
            ownership.queue.elsewhere = self._keys[self._twin(partition)]

    def started(self, partition: Partition, records: Sequence[Record]) -> None:
        """These records have been given to a worker."""
        keys = self._keys.get(partition)
        if keys is not None:
            for record in records:
                keys[record.key] = keys.get(record.key, 0) + 1

    def ended(self, partition: Partition, records: Sequence[Record]) -> None:
        """These records run no more, whatever came of them."""
        keys = self._keys.get(partition)
        if keys is None:
            return
        for record in records:
            left = keys[record.key] - 1
            if left:
                keys[record.key] = left
            else:
                del keys[record.key]
                self._resume(self._twin(partition), record.key)

    def _resume(self, partition: Partition, key: Key) -> None:
        waiting = self._owned.get(partition)
        if waiting is not None and not waiting.gone and isinstance(waiting.queue, Lanes) and waiting.queue.resume(key):
            self._resumed(waiting)
