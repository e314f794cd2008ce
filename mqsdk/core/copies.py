"""Copies of one message in one partition: a publish whose answer was lost is sent again, and what was in doubt may be stored twice.

The publisher says of such a message that it was sent before (`mq-again`), so that nobody looks at the others. A copy is settled unseen when
the first was received in the same ownership: that one is settled, or still owed, whatever becomes of the copy. What another owner has had
is not known here, so a copy behind a change of owner is handled. Only the newest of a partition are remembered: a publisher repeats within
its deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

from mqsdk.spi.events import Record

REMEMBERED = 10_000  # records of one ownership, about 100 bytes each


class Copies:
    """Of one ownership. Costs a list of references per batch; only a record that was sent before is compared. Foreign ones never are."""

    __slots__ = ("_batches", "_count")

    def __init__(self) -> None:
        self._batches: deque[list[Hashable]] = deque()
        self._count = 0

    def among(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those that are copies of one received before. All of them are remembered."""
        copies = self._find(records) if any(record.again for record in records) else ()
        self._batches.append([record.mark for record in records])
        self._count += len(records)
        while self._count - len(self._batches[0]) >= REMEMBERED:
            self._count -= len(self._batches.popleft())
        return copies

    def _find(self, records: Sequence[Record]) -> list[Record]:
        known = {mark for batch in self._batches for mark in batch}
        copies = []
        for record in records:
            if record.again and record.producer and record.mark in known:
                copies.append(record)
            known.add(record.mark)
        return copies
