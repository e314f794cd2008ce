"""One ownership: what was read, what of it may be delivered, what is not settled yet. Talks to nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mqsdk.spi import Batch, ConsumerEvent, Gap, Partition
from mqsdk_redis import names
from mqsdk_redis.ids import CLOCK, era_of, id_of, position_of
from mqsdk_redis.records import RedisRecord

READ_BYTES = 1 << 20  # a read is held beside what is in flight
FIRST_READ = 16  # entries, while nothing is known of their size

Entry = tuple[bytes, Sequence[bytes] | None]
Range = tuple[int, int]


class Owned:
    """expected: position of the next new entry. last: id of the last entry received. history: the pending list is read before new entries.

    read_so_far: entries that were stored up to the expected one, -1 when not known. behind: there may be more to read.
    records, bytes: credit left, nothing before the first. give_back_by: set while it is asked back. lost_tail: see `lose_tail`.
    move_at, last_news: of the delayed entries, see `Mover`.
    """

    def __init__(self, partition: Partition, group: str, member: bytes, epoch: int, delivered: bytes, blob: bytes) -> None:
        self.partition = partition
        self.epoch = epoch
        self.token = b"%s|%d" % (member, epoch)
        self.stream = names.stream(partition)
        self.lease = names.lease(partition, group)
        self.ownership = names.ownership(partition, group)
        self.fence = names.fence(partition, group, epoch)
        self.delivered = self.last = delivered
        self.expected = position_of(delivered) + 1
        self.blob: bytes | None = blob  # as it was sent last; None when that failed
        self.read_so_far = -1
        self.history = self.behind = True
        self.records = self.bytes = 0
        self.give_back_by: float | None = None
        self.lost_tail: Range | None = None
        self.delayed = names.delayed(partition)
        self.move_at = 0.0  # when to look for what is due, monotonic
        self.last_news = b"0-0"
        self._mean_bytes: float | None = None  # of the messages delivered last
        self._after = b"0-0"
        self._buffer: deque[list[RedisRecord] | Gap] = deque()
        self._unsettled: set[int] = set()

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    @property
    def may_deliver(self) -> bool:
        return self.records > 0 and self.bytes > 0 and self.give_back_by is None

    @property
    def wants(self) -> bool:
        """Whether to read now, credit or not: what is held back for the lack of it is there when it comes."""
        return self.behind and not self._buffer and self.give_back_by is None

    def count(self, most: int) -> int:
        """How many entries to ask for, at most `most`: about READ_BYTES, going by those that came last."""
        fit = FIRST_READ if self._mean_bytes is None else READ_BYTES / max(self._mean_bytes, 1)
        return max(1, min(most, int(fit)))

    @property
    def has_news(self) -> bool:
        """Whether something could be delivered without reading."""
        return bool(self._buffer) and (self.may_deliver or isinstance(self._buffer[0], Gap)) and self.give_back_by is None

    @property
    def after(self) -> bytes:
        """Where the next read begins."""
        return self._after if self.history else b">"

    def read_again(self) -> None:
        """A read has failed: what it took may stand in the pending list, before everything newer."""
        self.history, self._after, self.behind = True, max(self._after, self.last, key=position_of), True

    def receive(self, entries: Sequence[Entry], is_full: bool, lost_before: Callable[[bytes], bool]) -> list[bytes]:
        """Take entries in. Returns the ids whose entries are gone although they were pending: to be acknowledged.

        is_full: the read was cut by its limits. lost_before(id): whether entries between eras are gone before this one.
        """
        dead = [] if self._take_run(entries) else self._take_each(entries, lost_before)
        if entries:
            self.last = max(self.last, entries[-1][0], key=position_of)
            self._after = entries[-1][0]
        if is_full:
            self.behind = True
        elif self.history:
            self.history = False
        else:
            self.behind = False
        return dead

    def _take_run(self, entries: Sequence[Entry]) -> bool:
        """Take in what nearly every read brings: new entries, none missing. Ids rise, so the two ends tell it."""
        first, count = self.expected, len(entries)
        if self.history or not entries or entries[0][0] != id_of(first) or entries[-1][0] != id_of(first + count - 1):
            return False
        self._buffer.append([RedisRecord(position, fields or ()) for position, (_, fields) in enumerate(entries, first)])
        self.expected += count
        self.read_so_far += count if self.read_so_far >= 0 else 0
        return True

    def _take_each(self, entries: Sequence[Entry], lost_before: Callable[[bytes], bool]) -> list[bytes]:
        dead: list[bytes] = []
        for stream_id, fields in entries:
            position = position_of(stream_id)
            if fields is None:
                self._lost(position, position + 1, "retention")
                dead.append(stream_id)
                self.expected = max(self.expected, position + 1)
                continue
            is_new = position >= self.expected
            if position > self.expected:
                self._jump(position, stream_id, lost_before)
            if is_new:
                self.expected = position + 1
                self.read_so_far += self.read_so_far >= 0
            self._take(RedisRecord(position, fields, redelivered=not is_new))
        return dead

    def _take(self, record: RedisRecord) -> None:
        last = self._buffer[-1] if self._buffer else None
        if isinstance(last, list):
            last.append(record)
        else:
            self._buffer.append([record])

    def lose_tail(self, start: int, stop: int) -> None:
        """The server has lost the entries of these positions, the newest that there were."""
        if self.expected >= start:
            self._lost(start, stop, "truncated")
            self.expected = stop
        else:
            self.lost_tail = (start, stop)

    def _jump(self, position: int, stream_id: bytes, lost_before: Callable[[bytes], bool]) -> None:
        """Positions between the expected one and this one hold nothing any more, or never did."""
        if self.lost_tail is not None and position >= self.lost_tail[1]:
            start, stop = self.lost_tail
            self.lost_tail = None
            self._lost(start, stop, "truncated")
            self.expected = stop
        if position == self.expected:
            return
        if era_of(position) == era_of(self.expected):
            self._lost(self.expected, position, "retention")
            self.read_so_far += position - self.expected if self.read_so_far >= 0 else 0
        elif lost_before(stream_id):
            self._lost(self.expected, position, "retention")
            self.read_so_far = -1

    def _lost(self, start: int, stop: int, reason: str) -> None:
        last = self._buffer[-1] if self._buffer else None
        if isinstance(last, Gap) and last.stop == start and last.reason == reason:
            self._buffer.pop()
            start = last.start
        self._buffer.append(Gap(self.partition, self.epoch, start, stop, reason))

    # --- delivering ---------------------------------------------------------------------------------------------------------------------

    def deliver(self, budget: int) -> list[ConsumerEvent]:
        """What credit and budget allow, in order: a gap stands before the records behind it."""
        events: list[ConsumerEvent] = []
        while self._buffer and self.give_back_by is None:
            item = self._buffer.popleft()
            if isinstance(item, Gap):
                events.append(item)
                continue
            batch, left = self._cut(item, budget)
            if left:
                self._buffer.appendleft(left)
            if batch is None:
                break
            events.append(batch)
            budget -= len(batch.records)
        return events

    def _cut(self, records: list[RedisRecord], budget: int) -> tuple[Batch | None, list[RedisRecord]]:
        """(what may be delivered of them, the rest)."""
        count = min(budget, self.records, len(records)) if self.bytes > 0 else 0
        if count <= 0:
            return None, records
        taken, left = records[:count], records[count:]
        size = size_of(taken)
        if size > self.bytes:
            count = _within(taken, self.bytes)
            taken, left = records[:count], records[count:]
            size = size_of(taken)
        self.records -= len(taken)
        self.bytes -= size
        self._mean_bytes = size / len(taken)
        self._unsettled.update([record.position for record in taken])
        return Batch(self.partition, self.epoch, taken, size), left

    # --- settling -----------------------------------------------------------------------------------------------------------------------

    def take(self, ranges: Iterable[Range]) -> list[int]:
        """Positions that were delivered and lie in these ranges; they count as settled from now on."""
        unsettled = self._unsettled
        found: list[int] = []
        for start, stop in ranges:
            if stop - start <= len(unsettled):
                found += [position for position in range(start, stop) if position in unsettled]
            else:
                found += [position for position in unsettled if start <= position < stop]
        unsettled.difference_update(found)
        return found

    @property
    def first_unsettled(self) -> int | None:
        """Of what was received."""
        waiting = [item[0].position for item in self._buffer if isinstance(item, list)]
        return min([*self._unsettled, *waiting], default=None)

    def put_back(self, positions: Iterable[int]) -> None:
        """They could not be settled."""
        self._unsettled.update(positions)

    @staticmethod
    def ids(positions: Sequence[int]) -> list[bytes]:
        if positions and max(positions) < CLOCK:
            return [b"0-%d" % position for position in positions]
        return [id_of(position) for position in positions]


def size_of(records: Sequence[RedisRecord]) -> int:
    """Sum of `Record.size`, spelled out: the property costs twice as much."""
    return sum([len(record.value) + (0 if record.key is None else len(record.key)) for record in records])


def _within(records: Sequence[RedisRecord], room: int) -> int:
    """How many of these begin within so many bytes."""
    size = 0
    for count, record in enumerate(records):
        if size >= room:
            return count
        size += record.size
    return len(records)
