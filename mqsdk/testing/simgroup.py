"""One partition of a SimLog, a group's progress in it, and how members of a group share partitions. All with the store's lock held."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from mqsdk.spi import Gap, Partition, Record


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
            if (record.placed_ms or 0) >= time_ms:
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
                return record.placed_ms
        return None


class Group:
    """Consumers that share a topic. All methods are called with the store's lock held."""

    def __init__(self, topic: str, name: str, cursors: list[Cursor]) -> None:
        self.topic = topic
        self.name = name
        self.cursors = cursors
        self.members: list[Owner] = []
        self._leader: Group | None = None
        self._followers: list[Group] = []

    def follow(self, leader: Group) -> None:
        """Partition p of both belongs to one consumer from now on."""
        if leader is not self and self._leader is None:
            self._leader = leader
            leader._followers.append(self)

    @property
    def leader(self) -> Group | None:
        """The group in the first topic of the members' subscriptions, as long as all of them read that too."""
        found = self._leader
        return found if found is not None and all(member in found.members for member in self.members) else None

    def join(self, member: Owner, now: float, handover_s: float) -> None:
        if member not in self.members:
            self.members.append(member)
        self.balance(now, handover_s)

    def leave(self, member: Owner, now: float, handover_s: float, *, clean: bool) -> None:
        if member in self.members:
            self.members.remove(member)
        for cursor in self._owned_by(member):
            cursor.release(clean=clean)
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
        leader = self.leader
        if leader is not None:
            leader.balance(now, handover_s)
            return
        self._balance(now, handover_s)
        for follower in self._followers:
            if follower.leader is self:
                follower._go_along(self)

    def _go_along(self, leader: Group) -> None:
        """Each partition to the owner of the leader's, and back together with it."""
        for cursor, chief in zip(self.cursors, leader.cursors, strict=False):
            is_kept = chief.owner is not None and chief.revoke_at is None and not chief.owner.leaving
            if cursor.owner is None and is_kept and chief.owner in self.members:
                assert chief.owner is not None
                self._give(cursor, chief.owner)
                chief.owner.nudge()
            elif cursor.owner is not None and cursor.revoke_at is None and chief.revoke_at is not None:
                cursor.revoke_at = chief.revoke_at
                cursor.owner.revoke(cursor, cursor.revoke_at)

    def _balance(self, now: float, handover_s: float) -> None:
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
        free = [cursor for cursor in self.cursors if cursor.owner is None and not self._is_held(cursor.partition.number)]
        for member in members:
            while free and keeping[member.id] < quota[member.id]:
                self._give(free.pop(0), member)
                keeping[member.id] += 1
        for member in members:
            member.nudge()

    def _is_held(self, number: int) -> bool:
        """Somebody has not handed back what goes along with this partition."""
        return any(number < len(group.cursors) and group.cursors[number].owner is not None for group in self._followers)

    def _give(self, cursor: Cursor, member: Owner) -> None:
        cursor.owner = member
        cursor.epoch += 1
        member.gained(cursor)
        cursor.clean = False  # until this owner hands it back in order

    def next_due(self) -> float:
        return min((cursor.revoke_at for cursor in self.cursors if cursor.revoke_at is not None), default=float("inf"))

    def _owned_by(self, member: Owner) -> Iterator[Cursor]:
        return (cursor for cursor in self.cursors if cursor.owner is member)


def gap_of(cursor: Cursor, position: int) -> Gap | None:
    """The records between `position` and the first one that is still held, if any are gone."""
    if position >= cursor.log.base:
        return None
    return Gap(cursor.partition, cursor.epoch, position, cursor.log.base, "retention")
