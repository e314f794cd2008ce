"""Reading one partition forward. Takes no lock (but once, shared, after a checksum failure) and never blocks a writer.

Reads 64 KiB at a time up to the published tail, decodes whole batches. No mapping: a recovery truncates, which kills a mapped reader.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import damage, files, index, segment, state
from . import format as fmt
from .errors import ClosedHandle, CorruptBatch, CorruptRange, Gone, OutOfRange
from .format import BATCH_LIMIT, BATCH_MAGIC_WORD, HEADER, HEADER_SIZE, Fields, crc32

if TYPE_CHECKING:
    from .partition import PartitionLog
    from .shared import Shared

CHUNK = 1 << 16  # 2.60M messages a second against 2.26M with 256 KiB: fewer objects live in each generation of the collector
_LOCK_S = 0.5  # a consumer's thread waits so long for a writer at most; it has leases to renew
R = TypeVar("R")


class LogRecord:
    """One record. position: its offset. block: headers as stored, see `format.decode_headers`. sequence: 0 without a producer id."""

    __slots__ = ("attempt", "block", "key", "position", "producer_id", "sequence", "timestamp_ms", "value")

    position: int
    key: bytes | None
    value: bytes
    timestamp_ms: int
    attempt: int
    block: bytes
    producer_id: int
    sequence: int

    def __getattr__(self, name: str) -> int:
        if name == "sequence":  # not stored where the batch names no producer
            return 0
        raise AttributeError(name)


class Reader(Generic[R]):
    """One thread. Keeps its own descriptor and place, so that reading on costs one `pread` a chunk.

    position: offset of the next record that `read` returns.
    """

    def __init__(self, partition: PartitionLog, shared: Shared, directory: int, offset: int, record_class: type[R]) -> None:
        self.position = offset
        self._partition: Any = partition
        self._directory = directory
        self._topic_directory = shared.directory
        self._words: Any = shared.page.slot(partition.number)
        self._tag = shared.page.tag
        self._always = shared.durability == "always"
        self._class = record_class
        self._pending: list[R] = []
        self._taken = 0
        self._weight = 0  # bytes of log that the pending records came from: never less than their own
        self._next = offset  # offset of the next record to decode
        self._dense = -1  # base offset that the next batch must have; -1 after a seek
        self._generation = -1
        self._fd = -1
        self._header: Any = None
        self._at = 0
        self._sealed_size = -1

    def read(self, max_records: int, max_bytes: int) -> list[R]:
        """The next records: at most `max_records` (>= 1) and `max_bytes` of keys and values, but at least one. Empty only at the end.

        May return fewer than there are. Raises OutOfRange(first) and CorruptRange(start, stop): `seek` there to go on.
        """
        while not self._pending:
            if not self._fill():
                return []
        if self._taken == 0 and self._weight <= max_bytes and len(self._pending) <= max_records:
            found, self._pending = self._pending, []
        else:
            found = self._take(max_records, max_bytes)
        self.position = self._next if not self._pending else self._pending[self._taken].position  # type: ignore[attr-defined]
        return found

    def _take(self, max_records: int, max_bytes: int) -> list[R]:
        start = stop = self._taken
        left = max_bytes
        pending: list[Any] = self._pending
        last = min(len(pending), start + max(max_records, 1))
        while stop < last:
            left -= len(pending[stop].value) + len(pending[stop].key or b"")
            if left < 0 and stop > start:
                break
            stop += 1
        found = self._pending[start:stop]
        self._taken = stop
        if stop == len(pending):
            self._pending, self._taken = [], 0
        return found

    def seek(self, offset: int) -> None:
        """Go on at `offset`; past the end the reader waits for it."""
        self.position = self._next = offset
        self._pending, self._taken = [], 0
        self._drop()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            files.close(self._fd)
        self.forget(Gone(ClosedHandle, "the reader is closed"), close=False)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # dropped without close
            files.close(self._fd)

    def forget(self, gone: Gone, *, close: bool = True) -> None:
        """Fail from now on: the log was closed, or the process forked."""
        if close:
            files.close_all((self._fd,))
        self._fd = -1
        self._pending, self._taken = [], 0
        self._words = self._partition = gone

    # --- filling ----------------------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Decode the next chunk into `_pending`, which may stay empty. False at the end of what is visible."""
        words = self._words
        if words[state.TAG] != self._tag:
            self._partition.ensure_valid()
        if words[state.GENERATION] != self._generation:
            self._drop()
            self._generation = words[state.GENERATION]
        end, bound, active = state.read_tail(words)
        if self._always:
            bound = min(bound, words[state.VISIBLE])
        if self._next >= bound:
            return False
        if self._fd < 0:
            self._find(active, end)
        limit = end if self._header.base_offset == active else self._size()
        if self._at >= limit:
            return self._advance(active)
        before = self._at
        for attempt in range(4):
            try:
                if attempt == 3:
                    with self._shared_lock():
                        self._decode(limit, bound)
                else:
                    self._decode(limit, bound)
            except CorruptBatch:
                # Another CPU's store may be on its way; only damage is still there after a look under the writers' lock.
                if attempt == 3:
                    if self._ends_here(active):
                        self._at = limit
                        break
                    raise self._damage(limit, bound) from None
                time.sleep(0.001)
            else:
                break
        return self._at > before

    def _decode(self, limit: int, bound: int) -> None:
        """Read one chunk and decode the whole batches in it. CorruptBatch only when the first one is bad."""
        data = files.pread(self._fd, min(CHUNK, limit - self._at), self._at)
        if len(data) < HEADER_SIZE:
            raise CorruptBatch("the segment ends inside a batch header")
        salt, cls, decode = self._header.salt, self._class, fmt.decode_batch
        unpack = HEADER.unpack_from
        size, at, expected, wanted = len(data), 0, self._dense, self._next
        records: list[R] = []
        try:
            while size - at >= 64:
                fields: Fields = unpack(data, at)
                if fields[0] != BATCH_MAGIC_WORD or fields[1] != crc32(data[at + 8 : at + 64], salt):
                    raise CorruptBatch("a batch header fails its checksum")
                start = at + 64
                stop = start + fields[2]
                base, count = fields[4], fields[3]
                if count < 1 or fields[2] > BATCH_LIMIT or fields[9] < 20 or (base != expected and expected >= 0):
                    raise CorruptBatch("a batch header contradicts itself or the batch before it")
                if stop > size:
                    if records or at:
                        break
                    data = self._whole(fields[2], limit)
                    size = len(data)
                if base + count > bound:
                    break
                body = data[start:stop]
                if fields[8] or fields[7] != crc32(body):
                    body = fmt.open_body(body, fields)
                if base >= wanted:
                    records += decode(body, fields, wanted, cls)
                elif base + count > wanted:
                    records = decode(body, fields, wanted, cls)
                at = stop
                expected = base + count
        except CorruptBatch:
            if not at:
                raise
        if at:
            self._pending, self._taken, self._weight = records, 0, at
            self._at += at
            self._dense = expected
            self._next = max(expected, wanted)

    def _whole(self, length: int, limit: int) -> bytes:
        """A batch larger than a chunk, fetched exactly."""
        size = HEADER_SIZE + length
        if self._at + size > limit:
            raise CorruptBatch("a batch reaches past the end of its segment")
        data = files.pread(self._fd, size, self._at)
        if len(data) < size:
            raise CorruptBatch("a batch is cut short")
        return data

    def _shared_lock(self) -> Any:
        return _SharedLock(self._directory)

    def _ends_here(self, active: int) -> bool:
        """Whether the next segment goes on with the very next offset: what stands behind the last batch was refused to its publisher."""
        return self._header.base_offset != active and self._next == self._dense and self._next in segment.bases(self._directory)

    def _damage(self, limit: int, bound: int) -> CorruptRange:
        """What to tell the consumer: from the next offset to the next good batch, of this segment or a later one."""
        found = segment.resync(self._fd, self._header.salt, self._at + 1, limit, self._next + 1)
        if found is not None:
            return CorruptRange(self._next, min(found[1][fmt.BASE_OFFSET], bound))
        later = [base for base in segment.bases(self._directory) if base > max(self._header.base_offset, self._next)]
        return CorruptRange(self._next, min([*later[:1], bound]))

    # --- segments ---------------------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        if self._fd >= 0:
            files.close(self._fd)
        self._fd = -1
        self._dense = -1

    def _find(self, active: int, end: int) -> None:
        """Open the segment that holds `_next` and stand in front of its batch."""
        for _ in range(3):
            first = self._words[state.LOG_START]
            found = segment.bases(self._directory)
            base = segment.holding(found, self._next)
            if self._next < first or base is None:
                raise OutOfRange(max(first, found[0] if found else 0))
            try:
                self._open(base)
            except FileNotFoundError:
                continue  # retention was faster: look at the start again
            limit = end if base == active else self._size()
            self._at = index.find(self._directory, self._fd, self._header, self._next, limit)
            return
        raise OutOfRange(self._words[state.LOG_START])

    def _open(self, base: int) -> None:
        fd = files.open_read(segment.file_name(base), self._directory)
        try:
            self._header = segment.read_header(fd)
        except CorruptBatch:
            files.close(fd)
            later = [one for one in segment.bases(self._directory) if one > base]
            raise CorruptRange(self._next, later[0] if later else self._partition.end()) from None
        except BaseException:
            files.close(fd)
            raise
        self._drop()
        self._fd = fd
        self._at = fmt.SEGMENT_HEADER_SIZE
        self._sealed_size = -1

    def _size(self) -> int:
        """Size of a segment that is no longer the active one, which changes no more."""
        if self._sealed_size < 0:
            self._sealed_size = files.size_of(self._fd)
        return self._sealed_size

    def _advance(self, active: int) -> bool:
        """At the end of a segment: open the next one. A hole before it is damage unless it was left on purpose."""
        base = self._header.base_offset
        if base == active:
            return False
        later = [one for one in segment.bases(self._directory) if one > base and one >= self._next]
        first = self._words[state.LOG_START]  # told before anything is removed, so looked at after what is there
        if self._next < first:
            raise OutOfRange(first)
        if not later:
            return False
        try:
            self._open(later[0])
        except FileNotFoundError:  # retention was faster
            raise OutOfRange(self._words[state.LOG_START]) from None
        if later[0] > self._next:
            if not self._header.flags & fmt.JUMP or damage.covers(self._topic_directory, self._partition.number, self._next, later[0]):
                self._drop()
                raise CorruptRange(self._next, later[0])
            self._next = self.position = later[0]
        return True


class _SharedLock:
    """The partition lock, shared, on a descriptor of its own: on the appender's it would turn an exclusive lock into a shared one.

    LockTimeout beside a writer that does not let go: it may have been stopped, and then its batch is no damage.
    """

    def __init__(self, directory: int) -> None:
        self._fd = files.open_create("lock", directory)

    def __enter__(self) -> None:
        try:
            files.lock_until(self._fd, files.LOCK_SH, time.monotonic() + _LOCK_S, "the partition")
        except BaseException:
            files.close(self._fd)
            raise

    def __exit__(self, *exc: object) -> None:
        files.flock(self._fd, files.LOCK_UN)  # explicitly: a child forked meanwhile holds a copy that would keep the lock
        files.close(self._fd)
