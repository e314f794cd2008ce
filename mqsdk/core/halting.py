"""Halts: a message that used up its attempts stays unsettled, and its key or its partition stands still, until a person releases it.

A halt is saved with the progress, so that no owner runs the message again by surprise. A partition remembers so many halts as surely fit
beside the watermark (`halts_that_fit`); the one that reaches that number stops the partition, so that there are never more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from mqsdk.core import deadletter, sparse
from mqsdk.core.actions import Release, ReleaseAs, Released
from mqsdk.core.attempts import Attempt, HaltKey, HaltPartition
from mqsdk.core.desk import Desk
from mqsdk.core.parking import DEAD_LETTER, DROP, HALTS, KEY, PARTITION
from mqsdk.core.partition import Ownership
from mqsdk.events import Freed, Halted
from mqsdk.spi.events import Record

# A position takes ten bytes of the blob at most, halts may have half of the blob, and jobs that are out may add some.
BYTES_PER_HALT = 32
ENDS = {"retry": 0, "dead_letter": DEAD_LETTER, "drop": DROP}


def halts_that_fit(sparse_bytes: int) -> int:
    """Halts that one partition remembers; the last of them stops it."""
    return sparse_bytes // BYTES_PER_HALT


def saved_halts(blob: bytes) -> Mapping[int, tuple[int, int]]:
    """Positions that wait for a release, by what an owner has saved: (kind, failed attempts)."""
    saved = sparse.decode(blob, sparse.watermark_of(blob))
    return {position: (kind, saved.attempts.get(position, 0)) for position, kind in saved.halts.items() if kind in HALTS}


def amended(blob: bytes, positions: Collection[int], outcome: ReleaseAs, limit: int) -> bytes:
    """What an owner has saved, with these positions released: the next owner carries it out. At most `limit` bytes."""
    watermark = sparse.watermark_of(blob)
    saved = sparse.decode(blob, watermark)
    halts = {position: ENDS[outcome] if position in positions else kind for position, kind in saved.halts.items()}
    forgotten = positions if outcome == "retry" else ()
    attempts = {position: failed for position, failed in saved.attempts.items() if position not in forgotten}
    suspicion = saved.suspicion
    if suspicion is not None:
        crashes = {position: count for position, count in suspicion.crashes.items() if position not in forgotten}
        suspicion = suspicion._replace(crashes=crashes)
    kept = {position: kind for position, kind in halts.items() if kind}
    return sparse.encode(watermark, saved.ranges, attempts, limit, suspicion, kept)


class _Asked(NamedTuple):
    """A release that was carried out. answer: given when the progress is stored that was told after `token`."""

    answer: Released
    token: int
    touched: tuple[Ownership, ...]


class Halting:
    """Of one consumer. has_stopped: a partition has just stopped, and what was given out of it is to be taken back; the machine unsets it.

    changed(now, ownership): something of it may start, or its progress is to be told.
    """

    def __init__(self, desk: Desk, changed: Callable[[float, Ownership], None]) -> None:
        self._desk = desk
        self._changed = changed
        self._asked: list[_Asked] = []
        self.has_stopped = False

    def halt(self, now: float, ownership: Ownership, record: Record, attempt: Attempt, verdict: HaltKey | HaltPartition, why: str) -> None:
        """A message has used up its attempts."""
        is_last = len(ownership.parked.halts) + 1 >= halts_that_fit(self._desk.spec.sparse_bytes)
        kind = PARTITION if isinstance(verdict, HaltPartition) or is_last else KEY
        scope = "partition" if kind == PARTITION else "key"
        names = deadletter.names(ownership.origin, record)
        where, is_copy = (ownership.origin.partition, record.position), ownership.partition.topic == self._desk.spec.retry
        self._desk.report(Halted(*names, *where, scope, attempt.failed, why, attempt.place, is_copy))
        ownership.dirty = ownership.is_urgent = True
        self.hold(now, ownership, record, kind)

    def hold(self, now: float, ownership: Ownership, record: Record, kind: int) -> None:
        """Keep a halted record where it is, and all that has to wait behind it."""
        parked, was_stopped = ownership.parked, ownership.parked.is_stopped
        parked.halt(record, kind)
        ownership.park([record, *ownership.queue.block(record.key)], now)
        if parked.is_stopped:
            ownership.park(ownership.queue.everything(), now)
            self.has_stopped |= not was_stopped
        ownership.open_account(self._desk.is_stopped)
        self._changed(now, ownership)

    def release(self, now: float, owned: Iterable[Ownership], asked: Release) -> list[tuple[Ownership, Record]]:
        """Let go of what was asked for. Returns the records that have been read; the others end when they are."""
        freed: list[tuple[Ownership, Record]] = []
        touched: list[Ownership] = []
        count = left = 0
        for ownership in owned:
            positions = ownership.parked.matching(asked.keys)
            left += 0 if asked.keys is None else ownership.parked.unread
            if ownership.fenced or not positions:
                left += len(positions)
                continue
            touched.append(ownership)
            count += len(positions)
            records = [self._let_go(now, ownership, position, asked) for position in positions]
            freed += [(ownership, record) for record in records if record is not None]
            ownership.dirty = ownership.is_urgent = True
            ownership.open_account(self._desk.is_stopped)
            self._changed(now, ownership)
        self._asked.append(_Asked(Released(asked.token, count, left), self._desk.token(), tuple(touched)))
        return freed

    def _let_go(self, now: float, ownership: Ownership, position: int, asked: Release) -> Record | None:
        record = ownership.parked.release(position, ENDS[asked.outcome], now)
        if asked.outcome == "retry":
            ownership.attempts[position].begin_again()
        origin = ownership.origin
        message_id = "" if record is None else deadletter.message_id(origin, record)
        names, is_copy = (origin.topic, origin.group, origin.cluster, message_id), ownership.partition.topic == self._desk.spec.retry
        self._desk.report(Freed(*names, origin.partition, position, asked.outcome, is_copy))
        return record

    def tick(self) -> None:
        """Answer releases whose effect is stored, or whose partitions are gone."""
        left = []
        for one in self._asked:
            if all(ownership.gone or ownership.stored_token > one.token for ownership in one.touched):
                self._desk.actions.append(one.answer._replace(lost=sum(1 for ownership in one.touched if ownership.gone)))
            else:
                left.append(one)
        self._asked = left
