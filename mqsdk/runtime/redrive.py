"""Redrive: give dead letters to their group once more, attempts counted from 1.

Each is copied to `<topic>.<group>.retry`, which that group alone reads beside the topic, into the partition that messages of its key come
from; when the copy is confirmed the letter is marked as done. What ends in between, by whatever cause, is both a copy and a letter: at
most one chunk of letters. The retry topic and the group's progress in it are made by the first redrive, before anything is copied.

Messages that were delayed and that their topic refused (`core.delay`) go back to the smallest step instead: who moves tries them once more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

from mqsdk.core import delay
from mqsdk.core.deadletter import PREFIX, REDRIVE_OF
from mqsdk.core.partitioner import partition_of
from mqsdk.names import RETRIES, composed
from mqsdk.runtime import reading
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.deadletters import Answers, DeadLetter, Positions, Remover, topic_of
from mqsdk.spi import Admin, Backend, NewRecord, Partition

# Letters under way at once: what a kill may duplicate. A sync or two of each partition is shared by so many.
CHUNK = 200
# With a rate: how much time's worth of letters goes out at once.
RATE_CHUNK_S = 0.1


def is_delayed(topic: str, group: str) -> bool:
    """Whether this pair names the dead letters of what was delayed."""
    return (topic, group) == (delay.DEAD_TOPIC, delay.DEAD_GROUP)


def target_of(topic: str, group: str) -> str:
    """Where letters are copied to."""
    return delay.TOPICS[0] if is_delayed(topic, group) else composed(topic, group, RETRIES)


class Moved(NamedTuple):
    """moved: copied and removed. skipped: gone before their turn, or not tried after a chunk of which nothing could be stored.

    failed: still dead letters, because the copy or the removal was not confirmed. doubled: those of them whose copy is stored.
    """

    moved: int = 0
    skipped: int = 0
    failed: int = 0
    doubled: int = 0


class Redrive:
    """One redrive of one group. Blocks; not thread-safe."""

    def __init__(self, backend: Backend, topic: str, group: str, clock: Clock, timeout_s: float) -> None:
        """Makes the retry topic with as many partitions as the topic has. timeout_s: longest wait for the answers of one chunk.

        Raises BackendError; UnsafeBackend when the retry topic has another number of partitions.
        """
        admin = backend.admin()
        self._topic, self._group = topic, group
        self._is_delayed = is_delayed(topic, group)
        self._target = target_of(topic, group)
        self._partitions = admin.ensure_topic(self._target, admin.partitions(self._target if self._is_delayed else topic))
        if not self._is_delayed:
            admin.ensure_group(self._target, group)
        self._answers = Answers()
        self._producer = backend.producer(self._answers)
        self._remover = Remover(backend, topic, group, clock.wall_ms)
        self._removals = _Removals(admin, topic_of(topic, group))
        self._tokens = count()
        self._clock = clock
        self._timeout_s = timeout_s

    def run(self, letters: Iterator[DeadLetter], rate: float | None = None) -> Iterator[Moved]:
        """Move the letters, at most `rate` a second; the tally so far, after each chunk."""
        size = CHUNK if rate is None else max(1, min(CHUNK, int(rate * RATE_CHUNK_S)))
        tally, not_before = Moved(), self._clock.mono()
        while chunk := list(islice(letters, size)):
            self._clock.sleep(max(0.0, not_before - self._clock.mono()))
            not_before = max(not_before, self._clock.mono() - RATE_CHUNK_S) + (len(chunk) / rate if rate else 0.0)
            step = self._move(chunk)
            tally = Moved(*map(sum, zip(tally, step, strict=True)))
            if step.failed and not step.moved:
                tally = tally._replace(skipped=tally.skipped + sum(1 for _ in letters))
            yield tally

    def _move(self, chunk: Sequence[DeadLetter]) -> Moved:
        there = self._removals.without_removed(chunk)
        deadline = time.monotonic() + self._timeout_s
        copies = [self._copy_of(letter) for letter in there]
        if copies:
            self._producer.publish(copies, deadline)
        stored = self._answers.stored([copy.token for copy in copies], deadline)
        copied = [letter for letter, copy in zip(there, copies, strict=True) if copy.token in stored]
        moved = self._remover.remove(copied, self._timeout_s)
        return Moved(moved, len(chunk) - len(there), len(there) - moved, len(copied) - moved)

    def _copy_of(self, letter: DeadLetter) -> NewRecord:
        record, partition = letter.record, self._partition_of(letter)
        return NewRecord(
            token=next(self._tokens),
            partition=Partition(self._target, partition),
            key=record.key,
            value=record.value,
            id=letter.id,
            timestamp_ms=self._clock.wall_ms(),
            content_type=record.content_type,
            headers=record.headers,
            due_ms=record.due_ms if self._is_delayed else None,
            extra=self._extra_of(letter),
            durable=True,
        )

    def _extra_of(self, letter: DeadLetter) -> tuple[tuple[str, str], ...]:
        if self._is_delayed:
            kept = tuple(pair for pair in letter.record.extra if not pair[0].startswith(PREFIX))
            return (*kept, (delay.UNTIL, str(self._clock.wall_ms())))
        return ((REDRIVE_OF, f"{self._topic}:{letter.origin_partition}:{letter.origin_position}"),) if letter.has_origin else ()

    def _partition_of(self, letter: DeadLetter) -> int:
        """Where the original was, so that it shares an owner with new messages of its key, whoever's partitioner chose it."""
        origin, key = letter.origin_partition, letter.record.key
        if origin is not None and origin < self._partitions:
            return origin
        return letter.partition % self._partitions if key is None else partition_of(key, self._partitions)


class _Removals:
    """Letters that others remove meanwhile: a purge, or another redrive."""

    def __init__(self, admin: Admin, name: str) -> None:
        self._admin = admin
        self._name = name
        self._read_to = {number: admin.bounds(name, number)[1] for number in range(admin.partitions(name) or 0)}
        self._gone = {number: Positions() for number in self._read_to}

    def without_removed(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those that are still there. What has been trimmed was removed before, and so may have been the record that says so."""
        held: dict[int, int] = {}
        for number in {letter.partition for letter in letters}:
            held[number], end = self._admin.bounds(self._name, number)
            found = reading.records(self._admin, self._name, number, self._read_to[number], end)
            self._gone[number].read(one.record for one in found)
            self._read_to[number] = end
        return [one for one in letters if one.position >= held[one.partition] and one.position not in self._gone[one.partition]]
