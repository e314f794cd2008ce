"""Progress of one group in one topic: two slots of 4,096 bytes per partition, in a memory-mapped file that is fully allocated.

A store fills the slot that is *not* the newest, so a crash or a torn page costs the last store and nothing else. The owner's epoch
stands in the slot and is compared, under the file's own lock, at every store: whoever lost a partition cannot move its progress any more.

File: one header page, then region A, then region B, one slot per partition and region (the two copies lie on different pages).

    slot   0 seq | 8 watermark | 16 epoch | 24 time ms | 32 blob length, flags | 40 high | 48 blob (<= 4,040)
           4092 crc32 of bytes 0 to 47 and the blob
    header 0 magic | 8 version | 12 partitions | 16 superseded: number of the next generation of this file, 0 = this one counts

A process stopped while it holds the file's lock would stop everybody. Whoever waited too long stores `superseded`, *then* copies the slots
into the next generation, and all go on there. Every store looks at that word after it got the lock and once more after it wrote.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from .errors import LogError, UnsupportedVersion

PAGE = 4096
BLOB_LIMIT = 4040
MAGIC, VERSION = b"MQSDKCUR", 1
CLEAN = 1  # flag: the last owner handed the partition back in order

_HEADER = struct.Struct("<8sIIQ")
_SLOT = struct.Struct("<QQQqIIQ")
_WORD = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_SUPERSEDED_AT, _CRC_AT = 16, 4092
_SPINS = 20  # a lock is held for microseconds; waiting in the kernel at once costs more than trying again (measured for the append lock)


class NoSuchGroup(LogError):
    """The group has no progress in this topic."""


class CursorDamaged(LogError):
    """A progress file does not pass its checks; the group cannot say where it stands until its progress is reset or deleted."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(what)
        self.path = path


@dataclass(frozen=True, slots=True)
class Cursor:
    """What one slot says. watermark: first position not settled. high: highest settled position + 1. sparse: opaque to the engine."""

    watermark: int
    epoch: int = 0
    seq: int = 1
    high: int = 0
    sparse: bytes = b""
    clean: bool = True
    time_ms: int = 0


class CursorFile:
    """One open cursor file. Not thread-safe: each thread opens its own (the lock excludes open files, not processes)."""

    def __init__(self, path: Path, patience_s: float = 1.0) -> None:
        """patience_s: how long a store waits for the file's lock before it takes the holder for stopped. Raises NoSuchGroup."""
        self._path = path
        self._patience_s = patience_s
        self._generation = -1
        self._fd = -1
        self._map = mmap.mmap(-1, PAGE)
        self.partitions = 0
        self._known: dict[int, tuple[int, int, Cursor]] = {}
        self._open_generation(0)
        self._advance()

    def close(self) -> None:
        """Idempotent. Frees the lock only by closing: a child of a fork shares it and must not unlock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._map.close()

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def path(self) -> Path:
        """The file in use: the topic's name, with `~<n>` after a takeover of its lock."""
        return _generation_path(self._path, self._generation)

    # --- reading -----------------------------------------------------------------------------------------------------------------

    def read(self, partition: int) -> Cursor:
        """The newest valid slot; no lock. Raises CursorDamaged when neither slot passes its checksum."""
        self._advance()
        for _ in range(3):  # a writer may be filling one slot while the other is read: the next look finds one of them whole
            found = self._newest(partition)
            if found is not None:
                return found
        with self._locked():
            return self._newest_locked(partition)

    def evidence(self, partition: int) -> int:
        """The higher sequence word, unchecked: it changes with every store, so it shows the owner's life. Costs two loads."""
        if self._superseded():
            self._advance()
        return self._evidence(partition)

    def _evidence(self, partition: int) -> int:
        a, b = self._slots(partition)
        first: int = _WORD.unpack_from(self._map, a)[0]
        second: int = _WORD.unpack_from(self._map, b)[0]
        return max(first, second)

    # --- storing -----------------------------------------------------------------------------------------------------------------

    def store(self, partition: int, cursor: Cursor) -> Cursor | None:
        """Store under `cursor.epoch`; returns what was stored, None when the slot carries another epoch: the ownership is over.

        `seq` and `time_ms` are set here. Raises CursorDamaged, and ValueError for a blob above BLOB_LIMIT.
        """
        while True:
            with self._locked():
                current = self._newest_locked(partition)
                if current.epoch != cursor.epoch:
                    return None
                stored = self._write(partition, replace(cursor, seq=current.seq + 1, time_ms=time.time_ns() // 1_000_000))
            if not self._superseded():
                return stored

    def take(self, partition: int, claim: Callable[[Cursor], bool], unchanged: int | None = None) -> tuple[Cursor, Cursor] | None:
        """Begin a new ownership: epoch + 1, not clean. Returns (as the last owner left it, as stored now).

        claim: called under the lock with the last owner's slot; False = the lease is not ours after all, and None is returned.
        unchanged: the evidence that the caller saw standing still; None is returned too when the owner showed life since.
        """
        while True:
            with self._locked():
                left = self._newest_locked(partition)
                if (unchanged is not None and self._evidence(partition) != unchanged) or not claim(left):
                    return None
                now_ms = time.time_ns() // 1_000_000
                mine = self._write(partition, replace(left, epoch=left.epoch + 1, seq=left.seq + 1, clean=False, time_ms=now_ms))
            if not self._superseded():
                return left, mine

    def move(self, partition: int, position: int) -> Cursor:
        """Set the watermark to `position` under a new epoch and forget the blob (reset). The caller holds the group lock."""
        while True:
            with self._locked():
                current = self._newest_locked(partition)
                now_ms = time.time_ns() // 1_000_000
                moved = Cursor(position, epoch=current.epoch + 1, seq=current.seq + 1, high=position, time_ms=now_ms)
                moved = self._write(partition, moved)
            if not self._superseded():
                return moved

    def sync(self) -> None:
        """Wait until everything stored is on the medium."""
        os.fdatasync(self._fd)

    # --- slots -------------------------------------------------------------------------------------------------------------------

    def _slots(self, partition: int) -> tuple[int, int]:
        if not 0 <= partition < self.partitions:
            raise ValueError(f"partition {partition} is not one of {self.partitions}")
        return PAGE * (1 + partition), PAGE * (1 + self.partitions + partition)

    def _newest(self, partition: int) -> Cursor | None:
        found = [slot for slot in map(self._decode, self._slots(partition)) if slot is not None]
        return max(found, key=lambda slot: slot.seq, default=None)

    def _newest_locked(self, partition: int) -> Cursor:
        """As `_newest`, but remembers what this process wrote: an owner's store then decodes nothing."""
        a, b = self._slots(partition)
        words = _WORD.unpack_from(self._map, a)[0], _WORD.unpack_from(self._map, b)[0]
        known = self._known.get(partition)
        if known is not None and known[:2] == words:
            return known[2]
        cursor = self._newest(partition)
        if cursor is None:
            raise CursorDamaged(f"both progress slots of partition {partition} fail their checksum", self.path)
        return cursor

    def _decode(self, at: int) -> Cursor | None:
        page = self._map[at : at + PAGE]
        seq, watermark, epoch, time_ms, length, flags, high = _SLOT.unpack_from(page)
        if seq == 0 or length > BLOB_LIMIT:
            return None
        blob = page[_SLOT.size : _SLOT.size + length]
        if crc32(blob, crc32(page[: _SLOT.size])) != _CRC.unpack_from(page, _CRC_AT)[0]:
            return None
        return Cursor(watermark, epoch, seq, high, blob, bool(flags & CLEAN), time_ms)

    def _write(self, partition: int, cursor: Cursor) -> Cursor:
        a, b = self._slots(partition)
        newest_in_a = self._newest_is_first(partition, cursor.seq - 1)
        at = b if newest_in_a else a
        _fill(self._map, at, cursor)
        words = (_WORD.unpack_from(self._map, a)[0], _WORD.unpack_from(self._map, b)[0])
        self._known[partition] = (*words, cursor)
        return cursor

    def _newest_is_first(self, partition: int, seq: int) -> bool:
        first = self._slots(partition)[0]
        if _WORD.unpack_from(self._map, first)[0] != seq:
            return False
        known = self._known.get(partition)
        return (known is not None and known[2].seq == seq) or self._decode(first) is not None

    # --- the lock and its generations -----------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock()
        fd = self._fd
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(self) -> None:
        while True:
            self._advance()
            if not try_lock(self._fd, self._patience_s):
                self._supersede()
            elif not self._superseded():
                return
            else:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _superseded(self) -> int:
        number: int = _WORD.unpack_from(self._map, _SUPERSEDED_AT)[0]
        return number

    def _supersede(self) -> None:
        """The holder does not let go: mark this generation as over; `_advance` makes the next one."""
        self._map[_SUPERSEDED_AT : _SUPERSEDED_AT + 8] = _WORD.pack(self._generation + 1)

    def _advance(self) -> None:
        while number := self._superseded():
            try:
                self._open_generation(number)
            except NoSuchGroup:
                self._copy_to(number)  # whoever marked it has not got so far, or died: the copy is the same whoever makes it

    def _copy_to(self, number: int) -> None:
        newest = [self._newest(partition) or self._newest_locked(partition) for partition in range(self.partitions)]
        _create(_generation_path(self._path, number), newest)

    def _open_generation(self, number: int) -> None:
        path = _generation_path(self._path, number)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NoSuchGroup(f"the group has no progress file for topic `{self._path.name}`") from None
        try:
            mapped, partitions = _mapped(fd, path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self._map, self.partitions, self._generation = fd, mapped, partitions, number
        self._known.clear()


def create(path: Path, cursors: Sequence[Cursor]) -> bool:
    """Make the first generation; False when it was there already. All or nothing: the file appears complete."""
    return _create(path, cursors)


def generations(path: Path) -> list[Path]:
    """Every generation of a cursor file that exists, oldest first."""
    later = sorted(path.parent.glob(f"{path.name}~*"), key=lambda found: int(found.name.rpartition("~")[2] or 0))
    return [*([path] if path.exists() else []), *later]


def highest(root: Path, topic: str, partition: int) -> int:
    """Highest position + 1 that any group has settled in this partition, 0 without groups.

    Recovery never gives an offset below it to another message: a consumer already settled it.
    """
    result = 0
    for path in root.glob(f"groups/*/cursors/{topic}"):
        with suppress(CursorDamaged, NoSuchGroup):
            file = CursorFile(path)
            try:
                if partition < file.partitions:
                    cursor = file.read(partition)
                    result = max(result, cursor.high, cursor.watermark)
            finally:
                file.close()
    return result


def try_lock(fd: int, patience_s: float) -> bool:
    """flock without blocking: some quick tries, then ever longer pauses up to 5 ms until `patience_s` is over."""
    deadline, pause = 0.0, 0.0002
    for attempt in range(1 << 30):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < _SPINS:
                continue
            now = time.monotonic()
            deadline = deadline or now + patience_s
            if now >= deadline:
                return False
            time.sleep(min(pause, deadline - now))
            pause = min(pause * 2, 0.005)
        else:
            return True
    return False


def _generation_path(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}~{number}")  # `~` is in no valid name


def _mapped(fd: int, path: Path) -> tuple[mmap.mmap, int]:
    size = os.fstat(fd).st_size
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        raise CursorDamaged("the progress file is shorter than its header", path)
    magic, version, partitions, _ = _HEADER.unpack(header)
    if magic != MAGIC:
        raise CursorDamaged("the progress file does not begin with its mark", path)
    if version != VERSION:
        raise UnsupportedVersion("the version of the progress file", version, VERSION)
    if partitions < 1 or size != PAGE * (1 + 2 * partitions):
        raise CursorDamaged("the progress file's size does not fit its number of partitions", path)
    return mmap.mmap(fd, size), partitions


def _create(path: Path, cursors: Sequence[Cursor]) -> bool:
    temporary = path.with_name(f"~{uuid.uuid4().hex}.tmp")
    size = PAGE * (1 + 2 * len(cursors))
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)  # a sparse mapping on a full disk is SIGBUS
        with mmap.mmap(fd, size) as mapped:
            mapped[: _HEADER.size] = _HEADER.pack(MAGIC, VERSION, len(cursors), 0)
            for partition, cursor in enumerate(cursors):
                _fill(mapped, PAGE * (1 + partition), cursor)
        os.fsync(fd)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(temporary)
    sync_directory(path.parent)
    return True


def _fill(mapped: mmap.mmap, at: int, cursor: Cursor) -> None:
    length = len(cursor.sparse)
    if length > BLOB_LIMIT:
        raise ValueError(f"the sparse blob has {length} bytes; at most {BLOB_LIMIT} fit")
    flags = CLEAN if cursor.clean else 0
    head = _SLOT.pack(cursor.seq, cursor.watermark, cursor.epoch, cursor.time_ms, length, flags, cursor.high)
    body = head + cursor.sparse
    mapped[at : at + len(body)] = body
    mapped[at + _CRC_AT : at + PAGE] = _CRC.pack(crc32(body))


def sync_directory(path: Path) -> None:
    """Make a new name in this directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
