"""Progress of one group in one topic: two slots of 4,096 bytes per partition, in a memory-mapped file that is fully allocated.

A store fills the slot that is *not* the newest, so a process that dies in it costs that store and nothing else. A machine that goes down
may leave a page torn: then the other slot counts, as of the last sync or a store before it. Both torn is told, never believed. The owner's
epoch stands in the slot and is compared, under the file's own lock, at every store: whoever lost a partition cannot move its progress any
more.

File: one header page, then region A, then region B, one slot per partition and region (the two copies lie on different pages).

    slot   0 seq | 8 watermark | 16 epoch | 24 time ms | 32 blob length, flags | 40 high | 48 blob (<= 4,040)
           4092 crc32 of bytes 0 to 47 and the blob
    header 0 magic | 8 version | 12 partitions | 16 superseded: number of the next generation of this file, 0 = this one counts

A process stopped while it holds the file's lock would stop everybody. Whoever waited too long stores `superseded`, *then* copies the slots
into the next generation, and all go on there. Every store looks at that word after it got the lock and once more after it wrote.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from . import files, slots
from .errors import LogError, UnsupportedVersion
from .slots import BLOB_LIMIT, PAGE, SUPERSEDED_AT, Cursor, CursorDamaged, word_at

__all__ = ["BLOB_LIMIT", "Cursor", "CursorDamaged", "CursorFile", "NoSuchGroup", "create", "generations", "highest"]

_EXCLUSIVE, _UNLOCK = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
_SPINS = 20  # a lock is held for microseconds; going to sleep at once costs more than trying again (measured for the append lock)


class NoSuchGroup(LogError):
    """The group has no progress in this topic."""


class CursorFile:
    """One open cursor file. Not thread-safe: each thread opens its own (the lock excludes open files, not processes)."""

    def __init__(self, path: Path, patience_s: float = 1.0) -> None:
        """patience_s: how long a store waits for the file's lock before it takes the holder for stopped. Raises NoSuchGroup."""
        self._path = path
        self._patience_s = patience_s
        self._fd = -1
        self.marked = False  # somebody has been asked to sync it
        self._named = False  # its name is on the medium for sure
        self._known: dict[int, tuple[int, int, Cursor]] = {}
        self._open_generation(0)
        try:
            self._advance()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent. Frees the lock only by closing: a child of a fork shares it and must not unlock."""
        if self._fd >= 0:
            files.close(self._fd)
            self._fd = -1
            self._map.close()

    @property
    def path(self) -> Path:
        """The file in use: the topic's name, with `~<n>` after a takeover of its lock."""
        return _generation_path(self._path, self._generation)

    # --- reading -----------------------------------------------------------------------------------------------------------------

    def read(self, partition: int) -> Cursor:
        """The newest valid slot. Takes the lock only when no slot seemed valid. CursorDamaged when none is."""
        self._advance()
        for _ in range(3):  # a writer may be filling one slot while the other is read: the next look finds one of them whole
            found = self._newest(partition)
            if found is not None:
                return found
        fd = self._lock()
        try:
            return self._current(partition)
        finally:
            fcntl.flock(fd, _UNLOCK)

    def evidence(self, partition: int) -> int:
        """The higher sequence word, unchecked: it changes with every store, so it shows the owner's life. Costs two loads."""
        if self._superseded():
            self._advance()
        return max(self._words(partition))

    # --- storing -----------------------------------------------------------------------------------------------------------------

    def store(self, partition: int, cursor: Cursor) -> Cursor | None:
        """Store under `cursor.epoch`; returns what was stored, None when the slot carries another epoch: the ownership is over.

        `seq` and `time_ms` are set here. Raises CursorDamaged, and ValueError for a blob above BLOB_LIMIT.
        """
        watermark, epoch, _, high, sparse, clean, _ = cursor
        while True:
            fd = self._lock()
            try:
                current = self._current(partition)
                if current.epoch != epoch:
                    return None
                stored = Cursor(watermark, epoch, current.seq + 1, high, sparse, clean, time.time_ns() // 1_000_000)
                self._write(partition, stored)
            finally:
                fcntl.flock(fd, _UNLOCK)
            if not self._superseded():
                return stored

    def take(self, partition: int, claim: Callable[[Cursor], bool], unchanged: int | None = None) -> tuple[Cursor, Cursor] | None:
        """Begin a new ownership: epoch + 1, not clean. Returns (as the last owner left it, as stored now).

        claim: called under the lock with the last owner's slot; False = the lease is not ours after all, and None is returned.
        unchanged: the evidence that the caller saw standing still; None is returned too when the owner showed life since.
        """

        def begun(left: Cursor) -> Cursor | None:
            if (unchanged is not None and max(self._words(partition)) != unchanged) or not claim(left):
                return None
            return left._replace(epoch=left.epoch + 1, clean=False)

        return self._change(partition, begun)

    def move(self, partition: int, position: int) -> Cursor:
        """Set the watermark to `position` under a new epoch and forget the blob (reset). The caller holds the group lock."""
        changed = self._change(partition, lambda left: Cursor(position, left.epoch + 1, high=max(left.high, position)))
        assert changed is not None
        return changed[1]

    def amend(self, partition: int, epoch: int, left: bytes, sparse: bytes) -> bool:
        """Replace the blob that the owner of this epoch left. False when it is another one now. The caller holds the group lock."""

        def amended(current: Cursor) -> Cursor | None:
            return current._replace(sparse=sparse) if (current.epoch, current.sparse) == (epoch, left) else None

        return self._change(partition, amended) is not None

    def sync(self) -> None:
        """Wait until everything stored is on the medium. Any thread: it opens the file anew, since the owner may close or move on.

        OSError when the medium fails; the progress is then as old as the last sync that worked, after a power loss.
        """
        self.marked = False  # before the sync: a later store marks again
        with suppress(FileNotFoundError):  # the group was deleted
            fd = files.open_write(self.path)
            try:
                files.sync_data(fd)
            finally:
                files.close(fd)
            if not self._named:
                files.sync_path(self._path.parent)  # whoever made the file may have died before he did
                self._named = True

    def _change(self, partition: int, change: Callable[[Cursor], Cursor | None]) -> tuple[Cursor, Cursor] | None:
        """Store what `change` makes of the newest slot; None when it makes nothing of it."""
        while True:
            fd = self._lock()
            try:
                left = self._current(partition)
                wanted = change(left)
                if wanted is None:
                    return None
                mine = wanted._replace(seq=left.seq + 1, time_ms=time.time_ns() // 1_000_000)
                self._write(partition, mine)
            finally:
                fcntl.flock(fd, _UNLOCK)
            if not self._superseded():
                return left, mine

    # --- slots -------------------------------------------------------------------------------------------------------------------

    def _words(self, partition: int) -> tuple[int, int]:
        if not 0 <= partition < self.partitions:
            raise IndexError(f"partition {partition} is not one of {self.partitions}")
        at = PAGE * (1 + partition)
        return word_at(self._map, at)[0], word_at(self._map, at + self._apart)[0]

    def _newest(self, partition: int) -> Cursor | None:
        self._words(partition)
        at = PAGE * (1 + partition)
        a, b = slots.decode(self._map, at), slots.decode(self._map, at + self._apart)
        if a is None or b is None:
            return a or b
        return a if a.seq > b.seq else b

    def _current(self, partition: int) -> Cursor:
        """As `_newest`, under the lock; what this process wrote itself, and nobody after it, needs no decoding."""
        known = self._known.get(partition)
        if known is not None and known[:2] == self._words(partition):
            return known[2]
        found = self._newest(partition)
        if found is None:
            raise CursorDamaged(f"both progress slots of partition {partition} fail their checksum", self.path)
        self._known[partition] = (*self._words(partition), found)
        return found

    def _write(self, partition: int, cursor: Cursor) -> None:
        """Fill the slot that does not hold the current cursor, which `_current` has just noted."""
        first, second, current = self._known[partition]
        at = PAGE * (1 + partition)
        if first == current.seq:
            slots.fill(self._map, at + self._apart, cursor)
            self._known[partition] = (first, cursor.seq, cursor)
        else:
            slots.fill(self._map, at, cursor)
            self._known[partition] = (cursor.seq, second, cursor)

    # --- the lock and its generations -----------------------------------------------------------------------------------------------

    def _lock(self) -> int:
        """Take the lock of the generation that counts; returns the descriptor to unlock."""
        while True:
            if self._superseded():
                self._advance()
            fd = self._fd
            if not self._try_lock():
                self._supersede()
            elif not self._superseded():
                return fd
            else:
                fcntl.flock(fd, _UNLOCK)

    def _try_lock(self) -> bool:
        """Some quick tries, then ever longer pauses up to 5 ms until the patience is over."""
        for _ in range(_SPINS):
            with suppress(BlockingIOError):
                fcntl.flock(self._fd, _EXCLUSIVE)
                return True
        pause, deadline = 0.0002, time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            time.sleep(pause)
            with suppress(BlockingIOError):
                fcntl.flock(self._fd, _EXCLUSIVE)
                return True
            pause = min(pause * 2, 0.005)
        return False

    def _superseded(self) -> int:
        number: int = word_at(self._map, SUPERSEDED_AT)[0]
        return number

    def _supersede(self) -> None:
        """The holder does not let go: mark this generation as over; `_advance` makes the next one."""
        slots.set_word(self._map, SUPERSEDED_AT, self._generation + 1)

    def _advance(self) -> None:
        while number := self._superseded():
            try:
                self._open_generation(number)
            except NoSuchGroup:
                self._copy_to(number)  # whoever marked it has not got so far, or died: the copy is the same whoever makes it

    def _copy_to(self, number: int) -> None:
        newest = [self._newest(partition) or self._current(partition) for partition in range(self.partitions)]
        slots.create(_generation_path(self._path, number), newest)

    def _open_generation(self, number: int) -> None:
        path = _generation_path(self._path, number)
        try:
            fd = files.open_write(path)
        except FileNotFoundError:
            raise NoSuchGroup(f"the group has no progress in topic `{self._path.name}`") from None
        try:
            mapped, partitions = slots.map_file(fd, path)
        except BaseException:
            files.close(fd)
            raise
        self.close()
        self._fd, self._map, self.partitions, self._generation = fd, mapped, partitions, number
        self._apart = PAGE * partitions  # from a slot of region A to its copy in B
        self._known.clear()
        self._named = False


def create(path: Path, cursors: Sequence[Cursor]) -> bool:
    """Make the first generation; False when it was there already. All or nothing: the file appears complete."""
    return slots.create(path, cursors)


def generations(path: Path) -> list[Path]:
    """Every generation of a cursor file that exists, the newest first: removed in this order none is ever taken for the current one."""
    later = sorted(path.parent.glob(f"{path.name}~*"), key=lambda found: int(found.name.rpartition("~")[2]), reverse=True)
    return [*later, *([path] if path.exists() else [])]


def highest(root: Path, topic: str, partition: int) -> int:
    """Highest position + 1 that any group has settled in this partition, 0 without groups.

    Recovery never gives an offset below it to another message: a consumer already settled it. A damaged file says nothing.
    """
    result = 0
    for path in root.glob(f"groups/*/cursors/{topic}"):
        with suppress(CursorDamaged, NoSuchGroup, UnsupportedVersion):
            file = CursorFile(path)
            try:
                if partition < file.partitions:
                    cursor = file.read(partition)
                    result = max(result, cursor.high, cursor.watermark)
            finally:
                file.close()
    return result


def _generation_path(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}~{number}")  # `~` is in no valid name
