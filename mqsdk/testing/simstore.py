"""What a broker would hold: topics, groups, cursors, members. One SimLog is one broker; several SimBackends may share it.

One lock for everything, taken once per call and never per message. Nothing survives the process.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Literal, Protocol

from mqsdk.runtime.clock import Clock, SystemClock
from mqsdk.spi import BackendError, Gap, NotSupported, Outcome, Partition, Record, Rejected, Start, Unknown, UnsafeBackend

PublishFault = Literal["rejected", "unknown_stored", "unknown_lost"]
PUBLISH_FAULTS: tuple[PublishFault, ...] = ("rejected", "unknown_stored", "unknown_lost")
DEFAULT_PARTITIONS = 8  # `Admin.ensure_topic`


class Log:
    """The records of one partition. `sums[i]` counts the bytes before record i, so that a slice is measured without a loop."""

    __slots__ = ("base", "marks", "records", "sums")

    def __init__(self) -> None:
        self.base = 0
        self.records: list[Record] = []
        self.sums: list[int] = [0]
        self.marks: list[tuple[int, int]] = []  # (first position, serial of the publish): order across partitions

    @property
    def end(self) -> int:
        return self.base + len(self.records)

    def extend(self, records: list[Record]) -> None:
        self.records += records
        total = self.sums[-1]
        for record in records:
            total += record.size
            self.sums.append(total)

    def read(self, position: int, limit: int) -> list[Record]:
        start = max(0, position - self.base)
        return self.records[start : start + limit]

    def take(self, position: int, records: int, size: int) -> tuple[list[Record], int]:
        """Records from `position` on within both limits, and their bytes; one record may pass the byte limit."""
        start = position - self.base
        stop = min(start + records, len(self.records))
        stop = min(stop, max(start + 1, bisect_right(self.sums, self.sums[start] + size, start) - 1))
        return self.records[start:stop], self.sums[stop] - self.sums[start]

    def locate(self, time_ms: int) -> int:
        for record in self.records:
            if (record.timestamp_ms or 0) >= time_ms:
                return record.position
        return self.end

    def trim(self, before: int) -> None:
        count = max(0, min(before, self.end) - self.base)
        del self.records[:count], self.sums[:count]
        self.base += count


class Owner(Protocol):
    """A consumer, as the store sees it."""

    id: str

    def gained(self, cursor: Cursor) -> None: ...
    def revoke(self, cursor: Cursor, deadline: float) -> None: ...
    def lost(self, cursor: Cursor) -> None: ...
    def nudge(self) -> None: ...
    @property
    def leaving(self) -> bool: ...
    def expired(self, now: float) -> bool: ...


class Cursor:
    """Progress of a group in one partition, and who owns it."""

    __slots__ = ("clean", "done", "epoch", "high", "log", "owner", "partition", "revoke_at", "sparse", "watermark")

    def __init__(self, partition: Partition, log: Log, watermark: int) -> None:
        self.partition = partition
        self.log = log
        self.watermark = watermark
        self.high = watermark
        self.sparse = b""
        self.done: set[int] = set()
        self.epoch = 0
        self.clean = True
        self.owner: Owner | None = None
        self.revoke_at: float | None = None

    def settle(self, watermark: int, done: Sequence[tuple[int, int]], high: int, sparse: bytes) -> None:
        for start, stop in done:
            if stop > watermark:
                self.done.update(range(max(start, watermark), stop))
        if watermark > self.watermark:
            self.watermark = watermark
            self.done = {position for position in self.done if position >= watermark}
        self.high = max(self.high, high, watermark)
        self.sparse = sparse

    def release(self, *, clean: bool) -> None:
        self.owner = None
        self.revoke_at = None
        self.clean = clean

    @property
    def unsettled(self) -> int:
        start = max(self.watermark, self.log.base)
        return self.log.end - start - sum(position >= start for position in self.done)

    def oldest_ms(self) -> int | None:
        for record in self.log.read(self.watermark, len(self.log.records)):
            if record.position not in self.done:
                return record.timestamp_ms
        return None


class Group:
    """Consumers that share a topic. All methods are called with the store's lock held."""

    def __init__(self, topic: str, name: str, cursors: list[Cursor]) -> None:
        self.topic = topic
        self.name = name
        self.cursors = cursors
        self.members: list[Owner] = []

    def join(self, member: Owner, now: float, handover_s: float) -> None:
        if member not in self.members:
            self.members.append(member)
        self.balance(now, handover_s)

    def leave(self, member: Owner, now: float, handover_s: float) -> None:
        if member in self.members:
            self.members.remove(member)
        for cursor in self._owned_by(member):
            cursor.release(clean=False)
        self.balance(now, handover_s)

    def expire(self, asking: Owner, now: float, handover_s: float) -> None:
        """Drop members that showed no life for their lease, and owners that did not answer a Revoking in time."""
        dead = [member for member in self.members if member is not asking and member.expired(now)]
        late = [cursor for cursor in self.cursors if cursor.revoke_at is not None and now >= cursor.revoke_at]
        for member in dead:
            self.members.remove(member)
        for cursor in [cursor for member in dead for cursor in self._owned_by(member)] + late:
            if cursor.owner is not None:
                cursor.owner.lost(cursor)
                cursor.release(clean=False)
        if dead or late:
            self.balance(now, handover_s)

    def balance(self, now: float, handover_s: float) -> None:
        """Give free partitions to members below their share, ask members above it to hand back. Owners keep what they may."""
        members = [member for member in self.members if not member.leaving]
        if not members:
            return
        share, extra = divmod(len(self.cursors), len(members))
        held = Counter(cursor.owner.id for cursor in self.cursors if cursor.owner is not None)
        # Who holds most gets the larger shares, so that the fewest partitions move.
        ranked = sorted(members, key=lambda member: -held[member.id])
        quota = {member.id: share + (rank < extra) for rank, member in enumerate(ranked)}
        keeping: Counter[str] = Counter()
        for cursor in self.cursors:
            if cursor.owner is not None and cursor.revoke_at is None and not cursor.owner.leaving:
                keeping[cursor.owner.id] += 1
                if keeping[cursor.owner.id] > quota[cursor.owner.id]:
                    cursor.revoke_at = now + handover_s
                    cursor.owner.revoke(cursor, cursor.revoke_at)
        self._assign_free(members, quota, keeping)

    def _assign_free(self, members: list[Owner], quota: dict[str, int], keeping: Counter[str]) -> None:
        free = [cursor for cursor in self.cursors if cursor.owner is None]
        for member in members:
            while free and keeping[member.id] < quota[member.id]:
                cursor = free.pop(0)
                cursor.owner = member
                cursor.epoch += 1
                keeping[member.id] += 1
                member.gained(cursor)
                cursor.clean = False  # until this owner hands it back in order
        for member in members:
            member.nudge()

    def next_due(self) -> float:
        return min((cursor.revoke_at for cursor in self.cursors if cursor.revoke_at is not None), default=float("inf"))

    def _owned_by(self, member: Owner) -> Iterator[Cursor]:
        return (cursor for cursor in self.cursors if cursor.owner is member)


class SimLog:
    """The store. `clock` decides leases and hand-over deadlines; waiting is always real.

    handover_s: how long an owner may take to answer Revoking. partitions: what `ensure_topic(None)` creates.
    """

    def __init__(self, clock: Clock | None = None, *, handover_s: float = 10.0, partitions: int = DEFAULT_PARTITIONS) -> None:
        self.clock: Clock = clock or SystemClock()
        self.lock = threading.RLock()
        self.handover_s = handover_s
        self.default_partitions = partitions
        self.logs: dict[Partition, Log] = {}
        self.topics: dict[str, int] = {}
        self.groups: dict[str, dict[str, Group]] = {}
        self.serial = 0
        self._faults: list[tuple[PublishFault, int]] = []
        self._failed: dict[tuple[str, int, str], PublishFault] = {}
        self._member_serial = 0

    # --- topics and groups ---------------------------------------------------------------------------------------------------

    def create_topic(self, topic: str, partitions: int | None) -> int:
        with self.lock:
            existing = self.topics.get(topic)
            if existing is None:
                existing = self.topics[topic] = partitions or self.default_partitions
                self.groups[topic] = {}
                self.logs.update({Partition(topic, number): Log() for number in range(existing)})
        if partitions is not None and partitions != existing:
            raise UnsafeBackend(
                f"topic {topic} has {existing} partitions, not {partitions}",
                finding="partitions",
                fix=f"ask for {existing} partitions: changing the number would move keys between partitions",
            )
        return existing

    def create_group(self, topic: str, name: str, start: Start, *, history: bool, by_time: bool) -> Group:
        """The group, made if it is new; `start` is read only then. NotSupported for a start in a past that is not kept."""
        if not history and (start == "earliest" or isinstance(start, datetime)):
            raise NotSupported("history")
        if isinstance(start, datetime) and not by_time:
            raise NotSupported("by_time")
        with self.lock:
            groups = self.groups.get(topic)
            if groups is None:
                raise BackendError(f"topic {topic} does not exist", fix="create it with ensure_topic")
            if name not in groups:
                logs = {number: self.logs[Partition(topic, number)] for number in range(self.topics[topic])}
                begin = "latest" if start is None and not history else start
                cursors = [Cursor(Partition(topic, number), log, _start_of(log, begin)) for number, log in logs.items()]
                groups[name] = Group(topic, name, cursors)
            return groups[name]

    def group(self, topic: str, name: str) -> Group | None:
        return self.groups.get(topic, {}).get(name)

    def new_member_id(self, instance: str) -> str:
        with self.lock:
            self._member_serial += 1
            return f"{instance or 'member'}-{self._member_serial}"

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Lose every record below this position, as retention does; owners get a Gap if they had not read them."""
        with self.lock:
            self.logs[Partition(topic, partition)].trim(before)
            self.nudge({topic})

    def nudge(self, topics: set[str]) -> None:
        """Wake the consumers of these topics. Lock held."""
        for topic in topics:
            for group in self.groups.get(topic, {}).values():
                for member in group.members:
                    member.nudge()

    # --- records ---------------------------------------------------------------------------------------------------------------

    def records(self, topic: str) -> list[tuple[int, Record]]:
        """(partition, record) of a whole topic in the order of publishing."""
        with self.lock:
            runs: dict[int, list[tuple[int, Record]]] = defaultdict(list)
            for number in range(self.topics.get(topic, 0)):
                log = self.logs[Partition(topic, number)]
                for (position, serial), (stop, _) in pairwise([*log.marks, (log.end, 0)]):
                    first, last = max(position, log.base), max(stop, log.base)
                    runs[serial].extend((number, record) for record in log.read(first, last - first))
            return [item for serial in sorted(runs) for item in runs[serial]]

    def publish_foreign(
        self, topic: str, key: bytes | None, value: bytes, headers: tuple[tuple[str, str], ...] = (), partition: int = 0
    ) -> None:
        """Store a message as a producer that is not the SDK would: without id, timestamp or sequence."""
        with self.lock:
            log = self.logs[Partition(topic, partition)]
            log.marks.append((log.end, self.serial))
            self.serial += 1
            log.extend([Record(log.end, key, value, headers=headers)])
            self.nudge({topic})

    # --- faults ----------------------------------------------------------------------------------------------------------------

    def fail_publish(self, outcome: PublishFault, times: int = 1) -> None:
        """The next `times` messages end with this outcome; when layer 2 repeats one of them it ends the same way again."""
        if outcome not in PUBLISH_FAULTS:
            raise ValueError(f"outcome is one of {', '.join(PUBLISH_FAULTS)}")
        if times < 1:
            raise ValueError("times is at least 1")
        with self.lock:
            self._faults.append((outcome, times))

    @property
    def faulty(self) -> bool:
        return bool(self._faults or self._failed)

    def fault_of(self, producer: str, sequence: int, id: str) -> tuple[Outcome | None, bool]:
        """(outcome to answer or None, whether to store the record). Lock held."""
        message = (producer, sequence, id)
        if message in self._failed:
            return _outcome_of(self._failed[message]), False
        if not self._faults:
            return None, True
        fault, times = self._faults[0]
        self._faults[0:1] = [(fault, times - 1)] if times > 1 else []
        self._failed[message] = fault
        return _outcome_of(fault), fault == "unknown_stored"


def _outcome_of(fault: PublishFault) -> Outcome:
    if fault == "rejected":
        return Rejected("backend", "refused by the test", fix="this test asked for it with fail_publish")
    return Unknown("no answer: this test asked for it with fail_publish")


def _start_of(log: Log, start: Start) -> int:
    if start == "latest":
        return log.end
    if isinstance(start, datetime):
        return log.locate(round(start.timestamp() * 1000))
    return log.base


def gap_of(cursor: Cursor, position: int) -> Gap | None:
    """The records between `position` and the first one that is still held, if any are gone."""
    if position >= cursor.log.base:
        return None
    return Gap(cursor.partition, cursor.epoch, position, cursor.log.base, "retention")
