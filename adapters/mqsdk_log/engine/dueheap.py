"""When what is delayed in one partition is due: a binary heap in a mapped file that all processes share.

A hint: rebuilt from the bands whenever its boot tag does not match, or when somebody died while changing it. Shared, so that whoever
moves what is due next needs to load nothing, and no process holds what waits in memory of its own. All of it under the delay lock.

Header page of u64 words, then entries of three words, (due time in ms, reference, position), the smallest first. A reference names a
delayed record and is given in `reference`: of two with one due time the one that was published first is the smaller. The position is that
of its batch in its segment, a hint like the rest: whoever follows it checks what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from . import files, state

HEAD = 32768  # bytes before the first entry: a page of words, then what is on its way
MAGIC = int.from_bytes(b"MQDUE001", "little")
Entry = tuple[int, int, int]  # due time in ms, reference, position
CLASSES = 9
FIRST_CAPACITY = 256
_MAGIC, _TAG, _CAPACITY, _COUNT, _DIRTY, _KNOWN, _SELECTOR, _UNNOTED = range(8)
_COPIES = (16, 32)  # of `Moved`; the selector's lowest bit says which one counts
_INDEXED = 48
_FLYING = 4096 // 8
_FIRST = HEAD // 8
_ENTRY = 24
TAKE_LIMIT = 1000  # entries of one `take`: there is room for them
_OFFSET_BITS, _SIZE_BITS = 50, 8
OFFSETS = 1 << _OFFSET_BITS  # what a reference can tell apart
_OFFSET_MASK = OFFSETS - 1


def reference(band: int, offset: int, size: int) -> int:
    """Bands of longer delays come first: of one due time they hold what was published earlier.

    size: of the value; a power of 2 above it is kept.
    """
    return (CLASSES - 1 - band) << (_OFFSET_BITS + _SIZE_BITS) | offset << _SIZE_BITS | size.bit_length()


def place(ref: int) -> tuple[int, int]:
    """(band, offset) of a reference."""
    return CLASSES - 1 - (ref >> (_OFFSET_BITS + _SIZE_BITS)), ref >> _SIZE_BITS & _OFFSET_MASK


def waiting(name: str, at: int) -> int | None:
    """How many entries the heap of this file holds, without the lock; None where nobody has made it in this boot. FileNotFoundError."""
    fd = files.open_read(name, at)
    try:
        words = memoryview(files.pread(fd, 8 * 8, 0).ljust(64, b"\0")).cast("Q")
        return int(words[_COUNT]) if words[_MAGIC] == MAGIC and words[_TAG] == state.tag_of(fd) else None
    finally:
        files.close(fd)


class Moved(NamedTuple):
    """What has been moved to the partition: every record below `known` of its band whose (due, ref) is not above these two, and what
    the partition itself shows from `scan_from` on. flying: how many entries were taken and are on their way there.
    """

    due_ms: int = 0
    ref: int = 0
    scan_from: int = 0
    known: tuple[int, ...] = (0,) * CLASSES
    flying: int = 0


class DueHeap:
    """One process's mapping. It owns the descriptor."""

    def __init__(self, fd: int) -> None:
        """OSError when the disk has no room for the smallest one."""
        self._fd = fd
        try:
            self._tag = state.tag_of(fd)
            if files.size_of(fd) < HEAD + _ENTRY * FIRST_CAPACITY:
                files.allocate(fd, HEAD + _ENTRY * FIRST_CAPACITY)
            self._map()
        except BaseException:
            files.close(fd)
            raise

    def _map(self) -> None:
        size = files.size_of(self._fd) // 8 * 8
        self._mapped = files.map_shared(self._fd, size)
        self._view = memoryview(self._mapped)
        self._words: Any = self._view.cast("Q")
        self._capacity = (size - HEAD) // _ENTRY

    @property
    def is_valid(self) -> bool:
        """Made in this boot, and nobody died while changing it."""
        words = self._words
        return bool(words[_TAG] == self._tag and words[_MAGIC] == MAGIC and not words[_DIRTY])

    @property
    def is_of_this_boot(self) -> bool:
        return bool(self._words[_TAG] == self._tag and self._words[_MAGIC] == MAGIC)

    @property
    def is_removed(self) -> bool:
        return os.fstat(self._fd).st_nlink == 0

    def refresh(self) -> None:
        """Another process may have made it larger."""
        if self._words[_CAPACITY] > self._capacity:
            self._unmap()
            self._map()

    def clear(self, moved: Moved, known: int) -> None:
        """Begin a rebuild; `finish` ends it. known: bits of the bands that exist."""
        words = self._words
        words[_DIRTY] = words[_UNNOTED] = 1  # what had been moved is found once more by the next rebuild, unless something is noted before
        words[_MAGIC], words[_CAPACITY], words[_COUNT], words[_KNOWN] = MAGIC, self._capacity, 0, known
        for band in range(CLASSES):
            words[_INDEXED + band] = 0
        self.set_moved(moved)

    def finish(self) -> None:
        self._words[_DIRTY] = 0
        self._words[_TAG] = self._tag

    def close(self) -> None:
        self._unmap()
        files.close(self._fd)

    def _unmap(self) -> None:
        with suppress(BufferError):
            self._words.release()
            self._view.release()
            self._mapped.close()

    # --- what is known --------------------------------------------------------------------------------------------------------------

    @property
    def bands(self) -> list[int]:
        known = self._words[_KNOWN]
        return [band for band in range(CLASSES) if known >> band & 1]

    def add_band(self, band: int) -> None:
        self._words[_KNOWN] |= 1 << band

    def moved(self) -> Moved:
        at = _COPIES[self._words[_SELECTOR] & 1]
        words = self._words[at : at + 4 + CLASSES].tolist()
        return Moved(words[0], words[1], words[2], tuple(words[3:-1]), words[-1])

    def set_moved(self, moved: Moved) -> None:
        """Whoever dies in here leaves the old one or the new one."""
        selector = self._words[_SELECTOR] + 1 & 1
        at = _COPIES[selector]
        for number, value in enumerate((moved.due_ms, moved.ref, moved.scan_from, *moved.known, moved.flying)):
            self._words[at + number] = value
        self._words[_SELECTOR] = selector

    def pass_over(self, scan_from: int, at_least: int) -> None:
        """The partition has grown by other records, which need not be looked at; noted when they are so many."""
        moved = self.moved()
        if not self._words[_UNNOTED] and scan_from - moved.scan_from >= at_least:
            self.set_moved(moved._replace(scan_from=scan_from))

    # --- the heap -------------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._words[_COUNT])

    def digest(self) -> tuple[int, int]:
        """(number of entries, a sum over their due times and references): equal for two heaps that hold the same, in whatever order."""
        total, count = 0, self._words[_COUNT]
        for start in range(0, count, 4096):
            words = self._words[_FIRST + 3 * start : _FIRST + 3 * min(start + 4096, count)].tolist()
            total += sum(map(hash, zip(words[::3], words[1::3], strict=True)))
        return count, total & 0xFFFFFFFFFFFFFFFF

    def first_ms(self) -> int:
        """The next due time, `state.NOT_DUE` when nothing waits."""
        return int(self._words[_FIRST]) if self._words[_COUNT] else state.NOT_DUE

    def reserve(self, more: int) -> None:
        """Room for so many: afterwards `add` cannot fail. OSError when the disk is full; nothing has changed then."""
        needed = self._words[_COUNT] + more
        if needed <= self._capacity:
            return
        capacity = max(2 * self._capacity, needed)
        files.allocate(self._fd, HEAD + _ENTRY * capacity)
        self._unmap()
        self._map()
        self._words[_CAPACITY] = self._capacity

    def add(self, band: int, until: int, entries: Iterable[Entry]) -> None:
        """Take in what a band holds, which is indexed up to `until` then. After `reserve`."""
        words = self._words
        was_dirty = words[_DIRTY]
        words[_DIRTY] = 1
        for entry in entries:
            self._push(entry)
        words[_INDEXED + band] = until
        words[_DIRTY] = was_dirty

    def take(self, now_ms: int, records: int, size: int) -> list[Entry]:
        """The first of what is due, in order: at most `records` (up to TAKE_LIMIT), of about `size` bytes, but at least one.

        They are on their way until `land`; who dies on it leaves them for the next to see, in `flying`.
        """
        words = self._words
        taken: list[Entry] = []
        words[_DIRTY] = 1
        while words[_COUNT] and words[_FIRST] <= now_ms and len(taken) < records:
            size -= 1 << (words[_FIRST + 1] & 0xFF)
            if size < 0 and taken:
                break
            entry = self._pop()
            at = _FLYING + 3 * len(taken)
            words[at], words[at + 1], words[at + 2] = entry
            taken.append(entry)
        self.set_moved(self.moved()._replace(flying=len(taken)))
        words[_DIRTY] = 0
        return taken

    @property
    def has_flying(self) -> bool:
        return bool(self._words[_COPIES[self._words[_SELECTOR] & 1] + 3 + CLASSES])

    def flying(self) -> list[Entry]:
        """What somebody took who died before it had landed."""
        words = self._words[_FLYING : _FLYING + 3 * self.moved().flying].tolist()
        return [(words[at], words[at + 1], words[at + 2]) for at in range(0, len(words), 3)]

    def land(self, taken: Sequence[Entry], over: int, scan_from: int) -> None:
        """Of what was taken, `over` have been moved, or are lost; the others wait again. scan_from: the end of the partition now.

        Not noted as moved where more had been before, which only a clock that was set back does: then a rebuild finds it in the
        partition, from the old `scan_from` on.
        """
        words = self._words
        words[_DIRTY] = 1
        for entry in taken[over:]:
            self._push(entry)
        moved = self.moved()
        if over and taken[over - 1][:2] >= moved[:2]:
            due_ms, ref, _ = taken[over - 1]
            moved = Moved(due_ms, ref, scan_from, tuple(words[_INDEXED : _INDEXED + CLASSES].tolist()))
            words[_UNNOTED] = 0
        elif over:
            words[_UNNOTED] = 1
        self.set_moved(moved._replace(flying=0))
        words[_DIRTY] = 0

    def _push(self, entry: Entry) -> None:
        words = self._words
        due_ms, ref, position = entry
        index = words[_COUNT]
        words[_COUNT] = index + 1
        to = _FIRST + 3 * index
        while index:
            index = (index - 1) >> 1
            at = _FIRST + 3 * index
            its_ms = words[at]
            if its_ms < due_ms or (its_ms == due_ms and words[at + 1] < ref):
                break
            words[to], words[to + 1], words[to + 2] = its_ms, words[at + 1], words[at + 2]
            to = at
        words[to], words[to + 1], words[to + 2] = due_ms, ref, position

    def _pop(self) -> Entry:
        """The smaller child moves up, down to the leaves; then the last entry finds its place from below: half the usual comparisons."""
        words = self._words
        first = words[_FIRST], words[_FIRST + 1], words[_FIRST + 2]
        count = words[_COUNT] - 1
        last = _FIRST + 3 * count
        entry = words[last], words[last + 1], words[last + 2]
        index, child, to = 0, 1, _FIRST
        while child < count:
            at = _FIRST + 3 * child
            its_ms = words[at]
            if child + 1 < count:
                other_ms = words[at + 3]
                if other_ms < its_ms or (other_ms == its_ms and words[at + 4] < words[at + 1]):
                    child, at, its_ms = child + 1, at + 3, other_ms
            words[to], words[to + 1], words[to + 2] = its_ms, words[at + 1], words[at + 2]
            index, child, to = child, 2 * child + 1, at
        words[_COUNT] = index
        self._push(entry)
        words[_COUNT] = count
        return first
