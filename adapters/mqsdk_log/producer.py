"""Publishing on the caller's own thread: one append per run of records of a partition, one answer per run.

A batch is turned into columns first, so that what must be equal, rising or absent is asked once per batch at the speed of `tuple.count`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from mqsdk.spi import EventSink, NewRecord, Partition, Producer, Published, Rejected, Stored, Unknown
from mqsdk.spi.answers import put_outcome
from mqsdk_log.engine.bands import band_for
from mqsdk_log.engine.delays import Delays
from mqsdk_log.engine.errors import LogError
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.errors import refusal
from mqsdk_log.records import MAX_ATTEMPT, Blocks, producer_number

MAX_PAYLOAD = (8 << 20) - (64 << 10)  # a record is at most 8 MiB; key and headers need room
_FITS = 1 << 32  # sequences below it fit the batch header
_TIME_SPAN = 1 << 31  # times of a batch are stored as 32-bit differences
_FAILURES = (LogError, OSError, ValueError, IndexError)
_TOO_LARGE = Rejected("too_large", f"a payload is over the limit of {MAX_PAYLOAD} bytes")
_HELD_BACK = Rejected("throttled", "an earlier message of this partition is not stored yet", retryable=True)

Answer = Stored | Rejected | Unknown
Encoded = tuple[bytes | None, bytes, bytes, int, int, int]
Columns = list[tuple[Any, ...]]
# Places in NewRecord.
_PARTITION, _KEY, _VALUE, _ID, _TIME, _TYPE, _HEADERS, _PRODUCER, _SEQUENCE, _ATTEMPT, _DUE, _EXTRA, _DURABLE = range(1, 14)


class LogProducer(Producer):
    """Thread-safe without a lock of its own: partitions lock themselves."""

    def __init__(self, log: Log, events: EventSink) -> None:
        self._log = log
        self._events = events
        self._blocks = Blocks()
        self._numbers: dict[str, int] = {}
        self._partitions: dict[Partition, PartitionLog] = {}

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        if len(batch) == 1:
            new = batch[0]
            later = new.due_ms is not None and new.due_ms > _now_ms()
            self._events.put(Published(new[0], self._delay_one(new, deadline) if later else self._append_one(new, deadline)))
            return
        columns = list(zip(*batch, strict=True))
        if _uniform(columns, _PARTITION):
            self._publish_partition(batch, columns, deadline)
            return
        found: dict[Partition, list[NewRecord]] = {}
        for new in batch:
            found.setdefault(new.partition, []).append(new)
        for records in found.values():
            self._publish_partition(records, list(zip(*records, strict=True)), deadline)

    def _publish_partition(self, records: Sequence[NewRecord], columns: Columns, deadline: float) -> None:
        if columns[_DUE].count(None) < len(records):
            held_back: Rejected | None = None
            for delayed, part in _by_delay(records):
                held_back = self._publish_runs(_runs(part), deadline, delayed=delayed, held_back=held_back)
        elif _is_run(columns):
            self._publish_runs(iter((records,)), deadline, columns)
        else:
            self._publish_runs(_runs(records), deadline)

    def _publish_runs(
        self,
        runs: Iterator[Sequence[NewRecord]],
        deadline: float,
        columns: Columns | None = None,
        *,
        delayed: bool = False,
        held_back: Rejected | None = None,
    ) -> Rejected | None:
        """Runs of one partition. Nothing newer is stored after one that may still be repeated: it would overtake it.

        held_back: the answer for all of them because of that; returned for those that come after.
        """
        for run in runs:
            outcome = held_back or self._append(run, columns or list(zip(*run, strict=True)), deadline, delayed=delayed)
            if isinstance(outcome, Rejected) and outcome.code == "too_large" and len(run) > 1:
                middle = len(run) // 2  # one of them is too large, or all together are: the others are not to suffer for it
                held_back = self._publish_runs(iter((run[:middle], run[middle:])), deadline, delayed=delayed)
                continue
            put_outcome(self._events, run, outcome)
            if isinstance(outcome, Unknown) or (isinstance(outcome, Rejected) and outcome.retryable):
                held_back = _HELD_BACK
        return held_back

    # --- encoding -----------------------------------------------------------------------------------------------------------------

    def _append(self, run: Sequence[NewRecord], columns: Columns, deadline: float, *, delayed: bool = False) -> Answer:
        """Records of one partition, one producer, consecutive sequences: one append, or one of what is stored until it is due.

        What is delayed will share a batch with others' records, so it says itself who produced it.
        """
        first = run[0]
        if max(map(len, columns[_VALUE])) > MAX_PAYLOAD:
            return _TOO_LARGE
        number = self._number(first.producer) if columns[_SEQUENCE][-1] < _FITS and not delayed else 0
        base_ms = first.timestamp_ms
        deltas = [time_ms - base_ms for time_ms in columns[_TIME]]
        attempts = columns[_ATTEMPT]
        if max(attempts) > MAX_ATTEMPT:
            attempts = tuple(min(attempt, MAX_ATTEMPT) for attempt in attempts)
        blocks = self._encode(run, columns, number)
        records = list(zip(columns[_KEY], blocks, columns[_VALUE], deltas, (0,) * len(run), attempts, strict=True))
        return self._delay(first, records, columns[_DUE], deadline) if delayed else self._store(first, records, number, deadline)

    def _encode(self, run: Sequence[NewRecord], columns: Columns, number: int) -> list[bytes]:
        """The blocks of headers of a run, made together where they differ in the id only."""
        first = run[0]
        in_block = first.producer != "" and not number
        plain = not in_block and not any(columns[_HEADERS]) and not any(columns[_EXTRA]) and columns[_DUE].count(None) == len(run)
        if plain and _uniform(columns, _TYPE):
            ids = [text.encode() for text in columns[_ID]]
            if len(set(map(len, ids))) == 1:
                head, tail = self._blocks.around(first.content_type, len(ids[0]))
                return [head + one + tail for one in ids]
        return [self._blocks.of(new, in_block) for new in run]

    def _append_one(self, new: NewRecord, deadline: float) -> Answer:
        """As `_append` for the commonest case: a lone message with nothing but id and content type."""
        _, partition, key, value, id_text, time_ms, content_type, headers, producer, sequence, attempt, due_ms, extra, durable, _ = new
        number = self._numbers.get(producer)
        if headers or extra or due_ms is not None or not number or sequence >= _FITS or attempt > MAX_ATTEMPT or len(value) > MAX_PAYLOAD:
            return self._append((new,), list(zip(new, strict=True)), deadline)
        raw = id_text.encode()
        head, tail = self._blocks.around(content_type, len(raw))
        try:
            log = self._partitions.get(partition) or self._open(partition, deadline)
            return Stored(
                log.append(
                    [(key, head + raw + tail, value, 0, 0, attempt)], timestamp_ms=time_ms, producer_id=number, producer_seq=sequence,
                    deadline=deadline, durable=durable,
                )
            )  # fmt: skip
        except _FAILURES as error:
            return self._failed(partition, error)

    def _store(self, first: NewRecord, records: Sequence[Encoded], number: int, deadline: float) -> Answer:
        try:
            log = self._partitions.get(first.partition) or self._open(first.partition, deadline)
            base = log.append(
                records, timestamp_ms=first.timestamp_ms, producer_id=number, producer_seq=first.sequence if number else 0,
                deadline=deadline, durable=first.durable,
            )  # fmt: skip
        except _FAILURES as error:
            return self._failed(first.partition, error)
        return Stored(base)

    def _delay_one(self, new: NewRecord, deadline: float) -> Answer:
        if len(new.value) > MAX_PAYLOAD:
            return _TOO_LARGE
        block = self._blocks.of(new, new.producer != "")
        return self._delay(new, [(new.key, block, new.value, 0, 0, min(new.attempt, MAX_ATTEMPT))], [new.due_ms or 0], deadline)

    def _delay(self, first: NewRecord, records: Sequence[Encoded], dues: Sequence[int], deadline: float) -> Answer:
        try:
            log = self._partitions.get(first.partition) or self._open(first.partition, deadline)
            _delays(log).put(records, dues, timestamp_ms=first.timestamp_ms, deadline=deadline, durable=first.durable)
        except _FAILURES as error:
            return self._failed(first.partition, error)
        return Stored()

    def _failed(self, partition: Partition, error: Exception) -> Answer:
        self._partitions.pop(partition, None)  # look the topic up again next time: it may have been deleted and made anew
        return refusal(error)

    def _open(self, partition: Partition, deadline: float) -> PartitionLog:
        found = self._partitions[partition] = self._log.topic(partition.topic, deadline).partition(partition.number)
        return found

    def _number(self, producer: str) -> int:
        found = self._numbers.get(producer)
        if found is None:
            found = self._numbers[producer] = producer_number(producer)
        return found


def _uniform(columns: Columns, place: int) -> bool:
    column = columns[place]
    return column.count(column[0]) == len(column)


def _is_run(columns: Columns) -> bool:
    """Whether one batch header describes all: one producer, one durability, times within 32 bits, sequences without a jump."""
    if not _uniform(columns, _PRODUCER) or not _uniform(columns, _DURABLE) or max(columns[_TIME]) - min(columns[_TIME]) >= _TIME_SPAN:
        return False
    sequences = columns[_SEQUENCE]
    first, last = sequences[0], sequences[-1]
    if not columns[_PRODUCER][0]:
        return True
    return sequences == tuple(range(first, last + 1)) and (first < _FITS) == (last < _FITS)


def _runs(records: Sequence[NewRecord]) -> Iterator[Sequence[NewRecord]]:
    """Cut where a batch header could not describe the next record too."""
    start = 0
    for index in range(1, len(records)):
        if not _is_run(list(zip(records[index - 1], records[index], strict=True))):
            yield records[start:index]
            start = index
    yield records[start:]


def _by_delay(records: Sequence[NewRecord]) -> Iterator[tuple[bool, Sequence[NewRecord]]]:
    """(whether they are delayed, records): cut where that changes, and where another band begins."""
    now_ms = _now_ms()
    kinds = [None if record.due_ms is None or record.due_ms <= now_ms else band_for(record.due_ms - now_ms) for record in records]
    start = 0
    for index in range(1, len(records) + 1):
        if index == len(records) or kinds[index] != kinds[start]:
            yield kinds[start] is not None, records[start:index]
            start = index


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _delays(log: PartitionLog) -> Delays:
    assert log.delays is not None, "a partition of a topic, not of a band"
    return log.delays
