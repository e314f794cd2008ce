"""Records of one partition that wait for something that may take long: a retry, a dead letter under way, an overdue handler, a person.

They count to the span of the partition, not to what is in flight, so that one bad key does not use up the limit. What waits for a person
(behind a halt) does not age: the bound on age is there for what ends by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mqsdk.core.lanes import Key
from mqsdk.spi.events import Record

# What is saved of a halted position: what stands still with it, or how a release that its owner has yet to carry out ends it.
KEY, PARTITION, DEAD_LETTER, DROP = 1, 2, 3, 4
HALTS = (KEY, PARTITION)


class Halt(NamedTuple):
    """kind: one of the numbers above. record: None for one that an earlier owner halted and this one has not read yet."""

    kind: int
    record: Record | None


class Parking:
    """Of one ownership. `bytes`: of all records here. halts: by position; those of HALTS wait for a release.

    ordered: later records of a halted key wait with it.
    """

    __slots__ = ("_keys", "_records", "_since", "bytes", "halts", "is_stopped", "ordered")

    def __init__(self, ordered: bool, halts: Mapping[int, int]) -> None:
        self.ordered = ordered
        self.bytes = 0
        self.halts = {position: Halt(kind, None) for position, kind in halts.items()}
        self._records: dict[int, Record] = {}
        self._since: dict[int, float] = {}  # of those that age, in the order they came
        self._keys: set[Key] = set()
        self.is_stopped = False  # a halt of the whole partition: nothing of it starts
        self._look()

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, position: int) -> bool:
        return position in self._records

    def add(self, records: Iterable[Record], now: float) -> list[Record]:
        """Park records; those that were not here before."""
        added = [record for record in records if record.position not in self._records]
        for record in added:
            self._records[record.position] = record
            self.bytes += record.size
            if not self.waits_for_release(record):
                self._since[record.position] = now
        return added

    def remove(self, position: int) -> bool:
        """A record has ended, or is gone; False when it was not here."""
        if self.halts.pop(position, None) is not None:
            self._look()
        self._since.pop(position, None)
        record = self._records.pop(position, None)
        if record is None:
            return False
        self.bytes -= record.size
        return True

    def since(self) -> float | None:
        """Since when the oldest one waits of those that age; monotonic seconds."""
        return next(iter(self._since.values()), None)

    # --- halts ------------------------------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """How many halts an earlier owner left that this one has not read yet."""
        return sum(1 for halt in self.halts.values() if halt.record is None)

    def kind(self, position: int) -> int:
        """What is saved of this position as halted, 0 for nothing."""
        halt = self.halts.get(position)
        return 0 if halt is None else halt.kind

    def waits_for_release(self, record: Record) -> bool:
        return self.is_stopped or record.position in self.halts or (self.ordered and record.key in self._keys)

    def halt(self, record: Record, kind: int) -> None:
        """This record, and what waits behind it, is halted from now on."""
        self.halts[record.position] = Halt(kind, record)
        self._look()
        for position in [one for one in self._since if self.waits_for_release(self._records[one])]:
            del self._since[position]

    def release(self, position: int, kind: int, now: float) -> Record | None:
        """This position waits for nobody any more; kind: how it ends, 0 for another run. Returns the record, if it has been read."""
        record = self.halts.pop(position).record
        if kind:
            self.halts[position] = Halt(kind, record)  # until it has ended, so that the next owner knows what was decided
        self._look()
        for one, parked in self._records.items():
            if one not in self._since and not self.waits_for_release(parked):
                self._since[one] = now
        return record

    def _look(self) -> None:
        waiting = [halt for halt in self.halts.values() if halt.kind in HALTS]
        self._keys = {halt.record.key for halt in waiting if halt.record is not None}
        self.is_stopped = any(halt.kind == PARTITION for halt in waiting)

    def numbers(self) -> Mapping[int, int]:
        """As they are saved: position -> kind."""
        return {position: halt.kind for position, halt in self.halts.items()}

    def held(self) -> set[int]:
        """Positions of what is parked and waits for a release, by itself or behind another one."""
        return {position for position in self._records if position not in self._since}

    def matching(self, keys: Sequence[Key] | None) -> list[int]:
        """Positions that wait for a release, rising: of these keys, of all with None."""
        return sorted(
            position
            for position, halt in self.halts.items()
            if halt.kind in HALTS and (keys is None or (halt.record is not None and halt.record.key in keys))
        )
