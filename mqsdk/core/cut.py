"""Order over a change of cluster: what a producer sent to the new one waits until what it sent to the older ones is settled.

A producer sends nothing to the new cluster before everything that it sent to the old one is answered. So at its first message on the new
one, all its messages on the old one lie below the end that the old one has now: that end, in the partition of the key, is its *cut*. Its
messages wait here, in front of their lanes, until the group's settled progress on the old cluster has reached it. Both numbers are read
from the old cluster itself, so it does not matter who reads there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mqsdk.core.actions import Cut, CutPassed, CutsBegin, CutsOver
from mqsdk.core.desk import Desk
from mqsdk.core.lanes import Key
from mqsdk.core.partition import Ownership
from mqsdk.core.partitioner import partition_of
from mqsdk.spi.events import PartitionProgress, Record

# Of the key on each older cluster; None: a message without key may have been in any.
Numbers = tuple[int | None, ...]
Place = tuple[str, Numbers]


class Cutting:
    """Of one consumer on the new cluster. `release(now, ownership, records)` is given what may go to its lanes, in order."""

    def __init__(self, desk: Desk, release: Callable[[float, Ownership, Sequence[Record]], None]) -> None:
        self._desk = desk
        self._release = release
        self._sides = desk.spec.behind
        self._passed: set[Place] = set()
        self._asked: dict[Place, int] = {}
        self._held: dict[Ownership, dict[Key, deque[Record]]] = {}

    @property
    def is_on(self) -> bool:
        return bool(self._sides)

    def admit(self, now: float, ownership: Ownership, records: Sequence[Record]) -> Sequence[Record]:
        """What of these may run now. The rest is parked; later records of its keys wait behind it, whoever sent them."""
        if ownership.partition.topic != self._desk.spec.topic:
            return records  # redriven: it has no place in the order
        held = self._held.setdefault(ownership, {})
        ready: list[Record] = []
        late: list[Record] = []
        for record in records:
            has_passed = self._has_passed(record)
            lane = held.get(record.key)
            if lane is not None:
                lane.append(record)
            elif not has_passed:
                held[record.key] = deque((record,))
            (ready if has_passed and lane is None else late).append(record)
        ownership.park(late, now)
        return ready

    def _has_passed(self, record: Record) -> bool:
        """Asks for the cut of a producer that is new in this partition."""
        place = record.producer, tuple(None if record.key is None else partition_of(record.key, count) for count in self._sides)
        if place in self._passed:
            return True
        if place not in self._asked:
            token = self._asked[place] = self._desk.token()
            self._desk.actions.append(Cut(token, place[1]))
        return False

    def passed(self, now: float, event: CutPassed) -> None:
        """The older clusters have nothing below this cut any more."""
        found = [place for place, token in self._asked.items() if token == event.token]
        for place in found:
            del self._asked[place]
            self._passed.add(place)
        if found:
            self._go_on(now)

    def begin(self, now: float, event: CutsBegin) -> None:
        """Every producer counts as new. What has gone to its lane already stays there."""
        self._sides = event.behind
        self._asked, self._passed = {}, set()
        self._go_on(now)

    def over(self, now: float, event: CutsOver) -> None:
        """Nobody writes to the older clusters any more: nothing waits for them."""
        self.begin(now, CutsBegin(()))

    def _go_on(self, now: float) -> None:
        for ownership, held in list(self._held.items()):
            records = list(self._freed(held))
            if records:
                self._release(now, ownership, records)

    def _freed(self, held: dict[Key, deque[Record]]) -> Iterable[Record]:
        for key, lane in list(held.items()):
            while lane and (not self._sides or self._has_passed(lane[0])):
                yield lane.popleft()
            if not lane:
                del held[key]

    def forget(self, ownership: Ownership) -> None:
        """It is over; its next owner asks again."""
        self._held.pop(ownership, None)


class Cuts:
    """Cuts that were asked for, and how far each older cluster is. Fed with what its admin says; knows no clock and no cluster."""

    def __init__(self) -> None:
        self._new: dict[int, Numbers] = {}
        self._ends: dict[int, list[dict[int, int] | None]] = {}

    def ask(self, token: int, numbers: Numbers) -> None:
        self._new[token] = numbers
        self._ends[token] = [None] * len(numbers)

    def is_open(self, side: int) -> bool:
        """Whether anything waits for this older cluster."""
        return any(ends[side] is None or ends[side] for ends in self._ends.values())

    def looked(self, side: int, progress: Sequence[PartitionProgress]) -> list[int]:
        """How far the group is on this older cluster, read after everything so far was asked. Returns the tokens of cuts that have passed.

        A group that is not known there has nothing to wait for.
        """
        for token, ends in self._ends.items():
            if ends[side] is None:
                ends[side] = _ends(progress, self._new[token][side])
            ends[side] = _left(ends[side] or {}, progress)
        passed = [token for token, ends in self._ends.items() if all(end == {} for end in ends)]
        for token in passed:
            del self._ends[token], self._new[token]
        return passed


def _ends(progress: Sequence[PartitionProgress], number: int | None) -> dict[int, int]:
    return {one.partition: one.end for one in progress if number in (None, one.partition)}


def _left(ends: dict[int, int], progress: Sequence[PartitionProgress]) -> dict[int, int]:
    """Those ends that the group has not reached."""
    at = {one.partition: one.watermark for one in progress}
    return {number: end for number, end in ends.items() if number in at and at[number] < end}
