"""Dead letters of one topic and group: reading them, and removing them one by one. Backend-neutral, over the admin and a producer.

They are the records of `<topic>.<group>.dlq` with `mq-dlq-*` headers. A log keeps what it has, so a letter is removed by a *done* record in
its own partition: no key, no body, `mq-dlq-done` naming positions as `5,8-12`. Readers fold those in. A cursor with a set of picked
positions would overflow when letters are chosen by id or reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from mqsdk.core.deadletter import DONE, PREFIX, is_done
from mqsdk.names import composed
from mqsdk.runtime import reading
from mqsdk.runtime.observe import runs_text
from mqsdk.spi import Admin, Backend, NewRecord, Partition, ProducerEvent, Published, Record, Stored

# Positions named by one done record: its header stays far below the 16 KiB that any backend carries.
DONE_PER_RECORD = 500
# Longer runs are kept as ranges, which are searched one by one; what a hostile record names costs no memory either way.
SHORT_RUN = 64
_MAX_POSITION_DIGITS = 19


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. Times are wall-clock milliseconds, None where the copy does not say. `origin_*`: where the original was."""

    partition: int
    position: int
    record: Record
    reason: str
    attempts: int
    error: str
    first_at_ms: int | None
    last_at_ms: int | None
    origin_partition: int | None
    origin_position: str

    @property
    def has_origin(self) -> bool:
        """Whether it says where the original was."""
        return self.origin_partition is not None and bool(self.origin_position)

    @property
    def id(self) -> str:
        return self.record.id or f"{self.partition}:{self.record.ref}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which letters are meant; every given condition must hold. since_ms: dead-lettered at or after it."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    since_ms: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        if self.ids and letter.id not in self.ids:
            return False
        if self.reason is not None and letter.reason != self.reason:
            return False
        return self.since_ms is None or (letter.last_at_ms or 0) >= self.since_ms


def topic_of(topic: str, group: str) -> str:
    return composed(topic, group)


def letters(admin: Admin, topic: str, group: str, chosen: Chosen = Chosen()) -> Iterator[DeadLetter]:
    """The letters that are not done, by the time of their copy; none when the topic of dead letters does not exist.

    Reads each partition twice, because a done record comes after what it removes; memory holds the removed positions only.
    """
    name = composed(topic, group)
    streams = [_of_partition(admin, name, number, chosen) for number in range(admin.partitions(name) or 0)]
    found = reading.in_time_order(streams)
    return (read_letter(one.partition, one.record) for one in found)


def _of_partition(admin: Admin, name: str, number: int, chosen: Chosen) -> Iterator[reading.Found]:
    first, end = admin.bounds(name, number)
    done = Positions(one.record for one in reading.records(admin, name, number, first, end))
    for one in reading.records(admin, name, number, first, end):
        if _is_over(one.record, done):
            continue
        if chosen.matches(read_letter(number, one.record)):
            yield one


def trim(backend: Backend, topic: str, group: str) -> dict[int, int]:
    """Let the backend free the room of letters that are all done, and of the done records about them; partition -> position below which.

    Where the SDK keeps the records (`retention`): elsewhere readers that nobody here knows of may want them. BackendError.
    """
    if not backend.capabilities.retention:
        return {}
    admin, name = backend.admin(), composed(topic, group)
    positions = _spent(admin, name)
    if positions:
        admin.trim(name, positions)
    return positions


def _spent(admin: Admin, name: str) -> dict[int, int]:
    """Below these positions every letter is done, and whoever consumes the topic of dead letters has been there.

    A done record stands behind what it names, so one that is trimmed names nothing that is still there.
    """
    consumed = [admin.progress(name, one.group) for one in admin.groups(name)]
    spent: dict[int, int] = {}
    for number in range(admin.partitions(name) or 0):
        first, end = admin.bounds(name, number)
        stop = min([end, *(one.watermark for progress in consumed for one in progress if one.partition == number)])
        done = Positions(one.record for one in reading.records(admin, name, number, first, end))
        left = (one.record.position for one in reading.records(admin, name, number, first, stop) if not _is_over(one.record, done))
        if (position := next(left, stop)) > first:
            spent[number] = position
    return spent


def _is_over(record: Record, done: Positions) -> bool:
    return is_done(record) or record.position in done


def read_letter(partition: int, record: Record) -> DeadLetter:
    """A record of a topic of dead letters. Headers are untrusted: what does not parse is left out, never an error."""
    given = {name.removeprefix(PREFIX): value for name, value in record.extra if name.startswith(PREFIX)}
    return DeadLetter(
        partition=partition,
        position=record.position,
        record=record,
        reason=given.get("reason", ""),
        attempts=_integer(given.get("attempts")) or 0,
        error=given.get("error", ""),
        first_at_ms=_integer(given.get("first-at")),
        last_at_ms=_integer(given.get("last-at")) or record.timestamp_ms,
        origin_partition=_integer(given.get("partition")),
        origin_position=given.get("position", ""),
    )


def _integer(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > _MAX_POSITION_DIGITS:
        return None
    return int(text)


class Positions:
    """The positions that the done records of one partition name."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._single: set[int] = set()
        self._ranges: list[range] = []
        self.read(records)

    def read(self, records: Iterable[Record]) -> None:
        """Note what these records name; others are passed over."""
        for record in records:
            for name, value in record.extra:
                if name == DONE:
                    self._add(value)

    def _add(self, text: str) -> None:
        for part in text.split(","):
            start, dash, stop = part.partition("-")
            low, high = _integer(start), _integer(stop if dash else start)
            if low is None or high is None:
                continue
            if high - low < SHORT_RUN:
                self._single.update(range(low, high + 1))
            else:
                self._ranges.append(range(low, high + 1))

    def __contains__(self, position: int) -> bool:
        return position in self._single or any(position in one for one in self._ranges)


def done_text(positions: Iterable[int]) -> str:
    """Positions as a done record names them, in order, runs joined: `5,8-12`."""
    return runs_text(positions)


class Remover:
    """Marks letters as done. One per call of the command line; not thread-safe."""

    def __init__(self, backend: Backend, topic: str, group: str, now_ms: Callable[[], int]) -> None:
        self._name = composed(topic, group)
        self._answers = Answers()
        self._producer = backend.producer(self._answers)
        self._now_ms = now_ms
        self._tokens = count()

    def remove(self, chosen: Sequence[DeadLetter], timeout_s: float) -> int:
        """Store the done records of these letters; returns for how many letters that is confirmed. Blocks `timeout_s` at most."""
        deadline = time.monotonic() + timeout_s
        parcels = list(_parcels(chosen))
        records = [self._done_record(partition, positions) for partition, positions in parcels]
        if records:
            self._producer.publish(records, deadline)
        stored = self._answers.stored([record.token for record in records], deadline)
        return sum(len(positions) for (_, positions), record in zip(parcels, records, strict=True) if record.token in stored)

    def _done_record(self, partition: int, positions: Sequence[int]) -> NewRecord:
        return NewRecord(
            token=next(self._tokens),
            partition=Partition(self._name, partition),
            key=None,
            value=b"",
            id=str(uuid4()),
            timestamp_ms=self._now_ms(),
            extra=((DONE, done_text(positions)),),
            durable=True,
        )


def _parcels(chosen: Sequence[DeadLetter]) -> Iterator[tuple[int, list[int]]]:
    """(partition, positions) of each done record to write."""
    by_partition: dict[int, list[int]] = {}
    for letter in chosen:
        by_partition.setdefault(letter.partition, []).append(letter.position)
    for partition, positions in by_partition.items():
        for start in range(0, len(positions), DONE_PER_RECORD):
            yield partition, positions[start : start + DONE_PER_RECORD]


class Answers:
    """Results of a producer, which may put them from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._outcomes: dict[int, object] = {}

    def put(self, event: ProducerEvent, /) -> None:
        if isinstance(event, Published):
            with self._changed:
                for token in range(event.token, event.token + event.length):
                    self._outcomes[token] = event.outcome
                self._changed.notify_all()

    def stored(self, tokens: Sequence[int], deadline: float) -> set[int]:
        """Those of the tokens that are certainly stored, once all have answered or the deadline has passed."""
        with self._changed:
            self._changed.wait_for(lambda: all(token in self._outcomes for token in tokens), max(0.0, deadline - time.monotonic()))
            return {token for token in tokens if isinstance(self._outcomes.get(token), Stored)}
