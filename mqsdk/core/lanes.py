"""What is ready to run in one partition. `Fifo` for unordered consumers, `Lanes` (one serial queue per key) for ordered ones.

Neither knows of time, jobs or progress. A record whose position is in `special` (it has failed before) is never mixed with the others:
when its turn comes it is put into `due`, and whoever owns the queue decides when it goes into `again`, from where it runs alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType

from mqsdk.spi.events import Record

Key = bytes | None

NOWHERE: Mapping[Key, int] = MappingProxyType({})


class Fifo:
    """Records in the order they came. `spans_chunks`: take() may join records of several adds (for batches)."""

    __slots__ = ("_at", "_chunks", "_spans_chunks", "_special", "again", "due", "ready")

    def __init__(self, special: Container[int], spans_chunks: bool = False) -> None:
        self._special = special
        self._spans_chunks = spans_chunks
        self._chunks: deque[list[Record]] = deque()
        self._at = 0
        self.ready = 0
        self.again: deque[Record] = deque()
        self.due: list[Record] = []

    def add(self, records: Sequence[Record]) -> Sequence[Record]:
        """Append records. Returns those that wait behind a blocked key: none here."""
        if self._special:
            self.due += [record for record in records if record.position in self._special]
            records = [record for record in records if record.position not in self._special]
        if records:
            self._chunks.append(list(records))
            self.ready += len(records)
        return ()

    def take(self, limit: int, starts: int) -> list[Record]:
        """Remove up to `starts` ready records, oldest first; rising positions unless chunks are spanned. `limit`: as in Lanes."""
        limit = min(limit, starts)
        taken = self._take(limit)
        while self._spans_chunks and len(taken) < limit and self._chunks:
            taken += self._take(limit - len(taken))
        self.ready -= len(taken)
        return taken

    def _take(self, limit: int) -> list[Record]:
        chunk, at = self._chunks[0], self._at
        if len(chunk) - at <= limit:
            self._chunks.popleft()
            self._at = 0
            return chunk[at:] if at else chunk
        self._at = at + limit
        return chunk[at : at + limit]

    def back(self, records: Sequence[Record]) -> None:
        """Records taken out that did not run: to the front again."""
        self.due += [record for record in records if record.position in self._special]
        plain = [record for record in records if record.position not in self._special]
        if not plain:
            return
        if self._at:
            self._chunks[0] = self._chunks[0][self._at :]
            self._at = 0
        self._chunks.appendleft(plain)
        self.ready += len(plain)

    def end(self, records: Iterable[Record]) -> None:
        """Records that were taken out are over; nothing waited for them."""

    def take_again(self) -> Record | None:
        """Remove the next record whose retry is due."""
        return self.again.popleft() if self.again else None

    def block(self, key: Key) -> Sequence[Record]:
        """Nothing waits for a key here."""
        return ()

    def unblock(self, key: Key) -> None:
        """The opposite of `block`."""

    def behind(self, key: Key) -> Sequence[Record]:
        """Nothing waits for a key here."""
        return ()

    def divert(self) -> None:
        """Nothing becomes special here after it came."""

    def everything(self) -> Iterator[Record]:
        """All that has not been taken out."""
        for index, chunk in enumerate(self._chunks):
            yield from chunk[self._at if index == 0 else 0 :]
        yield from self.again
        yield from self.due

    def available(self, limit: int) -> int:
        """How many records a take(limit) would give."""
        return min(self.ready, limit)


class Lanes:
    """One serial queue per key. A key's records are out (ready, running, waiting for a retry) or wait in order behind those that are.

    None is a key like any other: messages without key share one lane.
    elsewhere: keys that run from the twin of this partition (`core.exclusion`); records of theirs are set aside until `resume`.
    """

    __slots__ = ("_aside", "_blocked", "_out", "_ready", "_special", "_waiting", "again", "due", "elsewhere")

    def __init__(self, special: Container[int]) -> None:
        self._special = special
        self._out: dict[Key, int] = {}
        self._waiting: dict[Key, deque[Record]] = {}
        self._ready: deque[Record] = deque()
        self._blocked: set[Key] = set()
        self._aside: dict[Key, Record] = {}
        self.elsewhere: Mapping[Key, int] = NOWHERE
        self.again: deque[Record] = deque()
        self.due: list[Record] = []

    @property
    def ready(self) -> int:
        """Keys that could start now."""
        return len(self._ready)

    def add(self, records: Sequence[Record]) -> Sequence[Record]:
        """Append records, each to its lane. Returns those that wait behind a blocked key."""
        out, ready, special = self._out, self._ready, self._special
        late: list[Record] = []
        for record in records:
            key = record.key
            if key in out:
                late.append(record)
                self._wait(record)
            else:
                out[key] = 1
                if special and record.position in special:
                    self.due.append(record)
                else:
                    ready.append(record)
        if late and self._blocked:
            return [record for record in late if record.key in self._blocked]
        return ()

    def _wait(self, record: Record) -> None:
        lane = self._waiting.get(record.key)
        if lane is None:
            self._waiting[record.key] = deque((record,))
        else:
            lane.append(record)

    def take(self, limit: int, starts: int) -> list[Record]:
        """Remove up to `limit` records that one worker may run in this order: the heads of up to `starts` lanes, and what follows each."""
        ready, elsewhere = self._ready, self.elsewhere
        if not self._waiting and not elsewhere:
            if len(ready) <= min(limit, starts):
                taken = list(ready)
                ready.clear()
                return taken
            return [ready.popleft() for _ in range(min(limit, starts))]
        taken = []
        while ready and starts and len(taken) < limit:
            record = ready.popleft()
            if record.key in elsewhere:
                self._aside[record.key] = record
                continue
            taken.append(record)
            starts -= 1
            if record.key in self._waiting:
                taken += self._follow(record.key, limit - len(taken))
        return taken

    def _follow(self, key: Key, limit: int) -> list[Record]:
        lane, special = self._waiting[key], self._special
        taken: list[Record] = []
        while lane and len(taken) < limit and not (special and lane[0].position in special):
            taken.append(lane.popleft())
        if not lane:
            del self._waiting[key]
        self._out[key] += len(taken)
        return taken

    def take_again(self) -> Record | None:
        """Remove the next record whose retry is due and whose key does not run elsewhere."""
        while self.again:
            record = self.again.popleft()
            if record.key not in self.elsewhere:
                return record
            self._aside[record.key] = record
        return None

    def resume(self, key: Key) -> bool:
        """The key runs elsewhere no more: what was set aside is next. False when nothing was."""
        record = self._aside.pop(key, None)
        if record is None:
            return False
        if record.position in self._special:
            self.again.appendleft(record)
        else:
            self._ready.appendleft(record)
        return True

    def back(self, records: Sequence[Record]) -> None:
        """Records taken out that did not end: to the front of their lanes, where they wait for what else of their key is out."""
        for record in sorted(records, key=_position, reverse=True):
            lane = self._waiting.get(record.key)
            if lane is None:
                self._waiting[record.key] = deque((record,))
            else:
                lane.appendleft(record)
        self.end(records)

    def end(self, records: Iterable[Record]) -> None:
        """Records that were taken out are over: the next of a key starts when nothing of it is out any more."""
        out, waiting = self._out, self._waiting
        for record in records:
            key = record.key
            left = out[key] - 1
            if left:
                out[key] = left
            elif key in waiting:
                self._promote(key)
            else:
                del out[key]
                self._blocked.discard(key)

    def _promote(self, key: Key) -> None:
        lane = self._waiting[key]
        record = lane.popleft()
        if not lane:
            del self._waiting[key]
        self._out[key] = 1
        self._blocked.discard(key)
        if self._special and record.position in self._special:
            self.due.append(record)
        else:
            self._ready.append(record)

    def hold(self, records: Iterable[Record]) -> None:
        """Keep the keys of these records blocked as if they were out; `end` frees them. For handlers of an earlier ownership."""
        for record in records:
            self._out[record.key] = self._out.get(record.key, 0) + 1
            self._blocked.add(record.key)

    def block(self, key: Key) -> Sequence[Record]:
        """What is out of this key will take long. Returns the records that wait behind it, in order; later ones are told by `add`."""
        self._blocked.add(key)
        return self.behind(key)

    def behind(self, key: Key) -> Sequence[Record]:
        """What waits for what is out of this key, in order."""
        return tuple(self._waiting.get(key, ()))

    def divert(self) -> None:
        """What has become special since it was ready is put into `due`."""
        self.due += [record for record in self._ready if record.position in self._special]
        self._ready = deque(record for record in self._ready if record.position not in self._special)

    def unblock(self, key: Key) -> None:
        """The opposite of `block`; what waits goes on waiting."""
        self._blocked.discard(key)

    def everything(self) -> Iterator[Record]:
        """All that has not been taken out."""
        yield from chain(self._ready, *self._waiting.values(), self._aside.values(), self.again, self.due)

    def available(self, limit: int) -> int:
        """How many records a take(limit) would give; limit when there are more. O(limit)."""
        count = 0
        for record in islice((one for one in self._ready if one.key not in self.elsewhere), limit):
            count += 1 + len(self._waiting.get(record.key, ()))
            if count >= limit:
                return limit
        return count


def _position(record: Record) -> int:
    return record.position


Queue = Fifo | Lanes
