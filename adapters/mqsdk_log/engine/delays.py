"""Delayed records of one partition: stored in a band when published, moved to the partition when they are due, by whoever is there.

Publishers, consumers and administration all move what is due: a word in the state page says when that is, so who finds nothing due pays one
comparison. The delay lock decides who does it; it dies with its holder, and the next one goes on. Nothing waits in memory.

A moved record carries its reference in the partition. So after a crash it can be told what had been moved: the heap is rebuilt from the
bands, without what `Moved` covers and without what the partition shows. Nothing is lost and nothing doubled, wherever a mover died.
`Moved` reaches the medium (`<p>.mark`) only when what it speaks of has: a power loss may take what was moved back to the band.

    topics/<topic>/delay/<band>/   a log of its own, with one partition for each of the topic
    topics/<topic>/delay/<p>.due      the heap           <p>.mark   `Moved`, as of the last checkpoint
    topics/<topic>/<p>/delay.lock
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import TYPE_CHECKING, Any

from . import bands, batches, dueheap, files, mutex, retention, state
from . import format as fmt
from .dueheap import CLASSES, DueHeap, Entry, Moved
from .errors import LockTimeout, LogError, NoSuchTopic, SyncFailed
from .reader import LogRecord
from .shared import Shared

if TYPE_CHECKING:
    from .partition import PartitionLog

LOCK = "delay.lock"
_CHUNK_BYTES = 4 << 20
_MARK = Struct(f"<{3 + CLASSES}Q")
_PASS_OVER = 100_000  # records in the partition that a rebuild may have to look at, besides those moved since the checkpoint


class Delays:
    """What waits in one partition, as one process sees it. Any thread."""

    def __init__(self, partition: PartitionLog, shared: Shared, directory: int, found: bands.Bands) -> None:
        self._partition = partition
        self._shared: Any = shared
        self._bands = found
        self._number = partition.number
        self._what = f"{shared.name}/{partition.number}: what is delayed"
        self._directory = directory
        self._words: Any = shared.page.slot(partition.number)
        self._mutex: Any = threading.Lock()
        self._lock_fd = -1
        self._heap: DueHeap | None = None
        self._fetcher = batches.Fetcher(found, partition.number)
        self._floors: dict[int, int] = {}

    # --- what others call -----------------------------------------------------------------------------------------------------------

    def put(
        self,
        records: Sequence[fmt.NewRecord],
        dues: Sequence[int],
        *,
        timestamp_ms: int,
        deadline: float | None = None,
        durable: bool = False,
    ) -> None:
        """Store records that are due at `dues` (ms since the epoch), as durably as an append does. They share one band: `band_for`.

        Raises as `PartitionLog.append`.
        """
        with self._exclusive(deadline, create=True) as heap:
            number = bands.band_for(max(dues) - _now_ms())
            band = self._band(number, heap)
            heap.reserve(len(records))
            bodies = batches.of_delayed(records, dues, max(dues) - timestamp_ms)
            base, after, size, position = band.write(bodies, (timestamp_ms, 0, 0), deadline)
            heap.add(number, after, batches.entries(number, base, position, bodies, records, dues))
            first_ms = heap.first_ms()
            sooner = first_ms < self._words[state.DUE]
            self._words[state.DUE] = first_ms
        band.follow_up(after, size, deadline, durable)
        if sooner:
            self._shared.wakers.wake_all()  # sleepers look when to wake

    def move(self, now_ms: int, deadline: float | None = None) -> bool:
        """Give what is due its place in the partition, up to some thousand records. True: look again, there may be more.

        deadline: monotonic seconds, bounds the wait for another mover and for writers. Raises as `PartitionLog.append`.
        """
        with self._exclusive(deadline) as heap:
            if heap is None:
                self._words[state.DUE] = state.NOT_DUE
                return False
            stored = self._move(heap, now_ms, deadline)
            self._words[state.DUE] = heap.first_ms()
        if stored is not None:
            self._partition.follow_up(*stored, deadline, False)
        return bool(self._words[state.DUE] <= now_ms)

    def checkpoint(self, deadline: float | None = None) -> None:
        """Bring to the medium how far has been moved, and remove the segments of bands that it covers. SyncFailed; LockTimeout."""
        with self._exclusive(deadline) as heap:
            if heap is None:
                return
            heap.pass_over(self._partition.tail(), _PASS_OVER)
            if (moved := heap.moved()) == self._load_mark():
                return
            self._partition.sync(deadline)
            for number in heap.bands:
                self._bands.topic(number).partition(self._number).sync(deadline)
            data = _MARK.pack(moved.due_ms, moved.ref, moved.scan_from, *moved.known)
            files.replace(self._mark_name, data + zlib.crc32(data).to_bytes(4, "little"), self._bands.directory())
            for number in heap.bands:
                band = self._bands.topic(number).partition(self._number)
                band.remove_before(retention.over(band, moved.due_ms, moved.known[number]))

    def waiting(self) -> int:
        """How many wait."""
        with self._exclusive(None) as heap:
            return 0 if heap is None else len(heap)

    def reindex(self, deadline: float | None = None) -> tuple[int, bool]:
        """Make the heap anew from the bands. (entries in it, whether it held the same before). LockTimeout."""
        with self._exclusive(deadline) as heap:
            if heap is None:
                return 0, True
            before = heap.digest()
            self._rebuild(heap)
            self._words[state.DUE] = heap.first_ms()
            return len(heap), heap.digest() == before

    def floor(self, number: int) -> int:
        """Recovery of a band gives out no offset below it: a record that was moved and then lost there had a higher one."""
        return self._floors.get(number, 0)

    # --- moving ---------------------------------------------------------------------------------------------------------------------

    def _move(self, heap: DueHeap, now_ms: int, deadline: float | None) -> tuple[int, int] | None:
        """(next offset, bytes) of what was appended, None when there was nothing."""
        taken = heap.take(now_ms, dueheap.TAKE_LIMIT, _CHUNK_BYTES)
        try:
            found = self._fetcher.fetch(taken, deadline)
        except (LogError, OSError):
            heap.land(taken, 0, 0)
            raise
        over, stored = self._append(heap, taken, found, deadline)
        heap.land(taken, over, self._partition.tail())
        if lost := sum(ref not in found for _, ref, _ in taken[:over]):
            self._shared.report(f"{self._what}: {lost} delayed records are damaged or lost")
        return stored

    def _append(
        self, heap: DueHeap, taken: Sequence[Entry], found: dict[int, LogRecord], deadline: float | None
    ) -> tuple[int, tuple[int, int] | None]:
        """How many of them are over, and (next offset, bytes) of what was appended."""
        refs = [ref for _, ref, _ in taken]
        over, after, total = 0, 0, 0
        try:
            for part in batches.parts([ref for ref in refs if ref in found], found):
                body, base_ms = batches.of_moved(part, found)
                _, after, size, _ = self._partition.write([body], (base_ms, 0, 0), deadline)
                over, total = refs.index(part[-1]) + 1, total + size
        except SyncFailed:
            raise  # it may be stored: they are on their way still, and the next one looks
        except (LogError, OSError):
            if not over:
                heap.land(taken, 0, 0)
                raise
            return over, (after, total)
        return len(taken), (after, total) if total else None

    def _land(self, heap: DueHeap) -> None:
        """Somebody died with these on their way: those before the last that the partition shows have arrived."""
        flying = heap.flying()
        shown = self._shown(heap.moved())
        arrived = [index for index, (_, ref, _) in enumerate(flying) if ref in shown]
        heap.land(flying, arrived[-1] + 1 if arrived else 0, self._partition.tail())

    # --- the heap -------------------------------------------------------------------------------------------------------------------

    def _rebuild(self, heap: DueHeap) -> None:
        """From the bands, without what has been moved."""
        moved = heap.moved() if heap.is_of_this_boot else self._load_mark()
        existing = self._bands.existing()
        if not existing:
            moved = Moved(scan_from=self._partition.tail())  # nothing was ever delayed
        shown = self._shown(moved)
        self._floors = {}
        for ref in shown:
            number, offset = dueheap.place(ref)
            self._floors[number] = max(self._floors.get(number, 0), offset + 1)
        heap.clear(moved._replace(flying=0), sum(1 << number for number in existing))
        for number in existing:
            self._read_band(heap, number, moved, shown)
        heap.finish()

    def _read_band(self, heap: DueHeap, number: int, moved: Moved, shown: set[int]) -> None:
        band = self._bands.topic(number).partition(self._number)
        expected, stop, lost = band.start(), band.tail(), 0
        for base, position, found in bands.words(band.directory, band.slot, expected, stop):
            if base + len(found) > dueheap.OFFSETS:  # nobody wrote so many: no reference can name it, so it counts as damaged
                continue
            left = [
                entry
                for index, entry in enumerate(_entries(number, base, position, found))
                if entry[1] not in shown and (base + index >= moved.known[number] or entry[:2] > moved[:2])
            ]
            heap.reserve(len(left))
            if base > expected and not bands.is_jump(band.directory, base):
                lost += base - expected
            expected = base + len(found)
            heap.add(number, expected, left)
        heap.add(number, stop, ())
        if lost := lost + stop - expected:
            self._shared.report(f"{self._what}: {lost} delayed records are damaged or lost; some may have been moved before")

    def _shown(self, moved: Moved) -> set[int]:
        """References in the partition itself, from where `moved` does not cover it any more."""
        start = max(moved.scan_from, self._partition.start())
        found = bands.words(self._directory, self._words, start, self._partition.tail())
        return {ref for _, _, entries in found for ref, _ in entries}

    @property
    def _mark_name(self) -> str:
        return f"{self._number}.mark"

    def _load_mark(self) -> Moved:
        try:
            data = files.read_all(self._mark_name, self._bands.directory())
        except FileNotFoundError:
            return Moved()
        if len(data) != _MARK.size + 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            return Moved()
        due_ms, ref, scan_from, *known = _MARK.unpack_from(data)
        return Moved(due_ms, ref, scan_from, tuple(known))

    # --- inside ---------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self, deadline: float | None, *, create: bool = False) -> Iterator[Any]:
        """The delay lock; yields the heap, None when nothing was ever delayed here, unless `create`."""
        lock, held = self._mutex, list[bool]()
        try:
            if not mutex.acquire(lock, deadline, held):
                raise LockTimeout(f"{self._what} is held by another thread; nothing was written")
            if self._lock_fd < 0:
                self._lock_fd = files.open_create(LOCK, self._directory)
            files.lock_until(self._lock_fd, files.LOCK_EX, deadline, self._what)
            try:
                yield self._valid_heap(create)
            finally:
                files.flock(self._lock_fd, files.LOCK_UN)
        finally:
            if True in held:
                lock.release()

    def _valid_heap(self, create: bool) -> DueHeap | None:
        if self._shared.page.is_deleted:
            raise NoSuchTopic(f"topic {self._shared.name} has been deleted")
        self._partition.ensure_valid()
        directory = self._bands.directory(create=create)
        if directory < 0:
            return None
        if self._heap is not None and self._heap.is_removed:
            self._heap.close()
            self._heap = None
        if self._heap is None:
            self._heap = DueHeap(files.open_create(f"{self._number}.due", directory))
        self._heap.refresh()
        if not self._heap.is_valid:
            self._rebuild(self._heap)
        elif self._heap.has_flying:
            self._land(self._heap)
        return self._heap

    def _band(self, number: int, heap: DueHeap) -> PartitionLog:
        """The band's part for this partition; its word is set before anything is in it."""
        topic = self._bands.topic(number, create=True)
        heap.add_band(number)
        return topic.partition(self._number)

    def close(self, gone: Any, deadline: float | None = None) -> None:
        """Close its files, and fail from now on; the topic closes the bands. What a thread still uses at `deadline` stays open."""
        lock, held = self._mutex, list[bool]()
        try:
            if mutex.acquire(lock, deadline, held):
                self.forget(gone)
            else:
                self._mutex = self._words = gone
        finally:
            if True in held:
                lock.release()

    def forget(self, gone: Any) -> None:
        """As `close` without waiting: in a forked child."""
        if self._heap is not None:
            self._heap.close()
        self._fetcher.close()
        files.close_all((self._lock_fd,))
        self._heap, self._lock_fd = None, -1
        self._mutex = self._words = gone


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _entries(band: int, base: int, position: int, found: Sequence[tuple[int, int]]) -> list[Entry]:
    """found: (due time, size of the value) of the records of one batch."""
    return [(due_ms, dueheap.reference(band, base + index, size), position) for index, (due_ms, size) in enumerate(found)]
