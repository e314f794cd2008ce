"""Publishing on the caller's own thread: one append per run of records of a partition, one answer per run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from mqsdk.spi import EventSink, NewRecord, Partition, Producer, Published, Rejected, Stored, Unknown
from mqsdk_log.engine.errors import LogError
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.errors import refusal
from mqsdk_log.records import Blocks, attempt_field, producer_number

MAX_PAYLOAD = (8 << 20) - (64 << 10)  # a record is at most 8 MiB; key and headers need room
_FITS = 1 << 32
_FAILURES = (LogError, OSError, ValueError, IndexError)


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
            self._answer(batch, self._append(batch, deadline))
            return
        for records in _by_partition(batch):
            self._publish_runs(_runs(records), deadline)

    def _publish_runs(self, runs: Iterator[Sequence[NewRecord]], deadline: float) -> None:
        """Runs of one partition. Nothing newer is stored after one that may still be repeated: it would overtake it."""
        held_back: Rejected | None = None
        for run in runs:
            outcome = held_back or self._append(run, deadline)
            if isinstance(outcome, Rejected) and outcome.code == "too_large" and len(run) > 1:
                middle = len(run) // 2  # one of them is too large, or all together are: the others are not to suffer for it
                self._publish_runs(iter((run[:middle], run[middle:])), deadline)
                continue
            self._answer(run, outcome)
            if isinstance(outcome, Unknown) or (isinstance(outcome, Rejected) and outcome.retryable):
                held_back = Rejected("throttled", "an earlier message of this partition is not stored yet", retryable=True)

    def _append(self, run: Sequence[NewRecord], deadline: float) -> Stored | Rejected | Unknown:
        """Records of one partition, one producer, consecutive sequences: one append."""
        first = run[0]
        if max([len(new.value) for new in run]) > MAX_PAYLOAD:
            return Rejected("too_large", f"a payload is over the limit of {MAX_PAYLOAD} bytes")
        try:
            log = self._partitions.get(first.partition) or self._open(first.partition)
            producer, sequence = self._identity(first, len(run))
            base_ms = first.timestamp_ms
            block, in_block = self._blocks.of, not producer and first.producer != ""
            if len(run) == 1:
                records = [(first.key, block(first, in_block), first.value, 0, 0, attempt_field(first.attempt))]
            else:
                records = [
                    (new.key, block(new, in_block), new.value, new.timestamp_ms - base_ms, 0, attempt_field(new.attempt)) for new in run
                ]
            base = log.append(
                records, timestamp_ms=base_ms, producer_id=producer, producer_seq=sequence, deadline=deadline, durable=first.durable
            )
        except _FAILURES as error:
            self._forget(first.partition)
            return refusal(error)
        return Stored(base)

    def _answer(self, run: Sequence[NewRecord], outcome: Stored | Rejected | Unknown) -> None:
        put = self._events.put
        if len(run) == 1 or run[-1].token - run[0].token == len(run) - 1:
            put(Published(run[0].token, outcome, len(run)))
            return
        for index, new in enumerate(run):  # tokens of several partitions mixed: an answer each
            base = outcome.position if isinstance(outcome, Stored) else None
            put(Published(new.token, outcome if base is None else Stored(base + index)))

    def _identity(self, first: NewRecord, count: int) -> tuple[int, int]:
        """(producer, first sequence) for the batch header; (0, 0) when the block carries them, or there is no producer."""
        number = self._numbers.get(first.producer)
        if number is None:
            number = self._numbers[first.producer] = producer_number(first.producer)
        if not number or not 0 <= first.sequence <= _FITS - count:
            return 0, 0
        return number, first.sequence

    def _open(self, partition: Partition) -> PartitionLog:
        found = self._partitions[partition] = self._log.topic(partition.topic).partition(partition.number)
        return found

    def _forget(self, partition: Partition) -> None:
        """After a failure look the topic up again: it may have been deleted and made anew."""
        self._partitions.pop(partition, None)


def _by_partition(batch: Sequence[NewRecord]) -> Iterator[Sequence[NewRecord]]:
    """The batch per partition, in its order."""
    first = batch[0].partition
    if all(new.partition is first for new in batch):
        yield batch
        return
    found: dict[Partition, list[NewRecord]] = {}
    for new in batch:
        found.setdefault(new.partition, []).append(new)
    yield from found.values()


def _runs(records: Sequence[NewRecord]) -> Iterator[Sequence[NewRecord]]:
    """Cut where a batch header could not describe the next record: another producer, a jump in the sequence, another durability."""
    last = records[-1]
    if _same(records[0], last, len(records) - 1) and all(_same(one, other, 1) for one, other in pairwise(records)):
        yield records
        return
    start = 0
    for index, (one, other) in enumerate(pairwise(records), 1):
        if not _same(one, other, 1):
            yield records[start:index]
            start = index
    yield records[start:]


def _same(one: NewRecord, other: NewRecord, distance: int) -> bool:
    return (
        one.producer == other.producer and one.durable == other.durable and (other.sequence - one.sequence == distance or not one.producer)
    )
