"""One partition in one process: append under the lock, publish the tail, and the doors to reading and syncing.

The publish path is written out in one function on purpose: at 5 us a message every call of Python is 1 %.
"""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections.abc import Sequence
from struct import error as struct_error
from typing import Any, TypeVar, overload

from . import files, index, locate, recovery, segment, state
from . import format as fmt
from .commit import GroupCommit
from .errors import ClosedHandle, DiskFull, Gone, LockTimeout, LogError, NoSuchTopic, SyncFailed, TooLarge, WriteFailed
from .format import BATCH_MAGIC_WORD, HEADER_HEAD, HEADER_SIZE, HEADER_TAIL, META, META_SIZE, SEGMENT_HEADER_SIZE, Body, crc32
from .reader import LogRecord, Reader
from .shared import Shared

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_APPEND_LIMIT = 1 << 30  # bytes of one append: a segment may outgrow its limit by it and must stay below 4 GiB
_AGE_CHECK_MS = 1000
R = TypeVar("R")


class PartitionLog:
    """Appends to and reads from one partition. Any thread; other processes may do the same at the same time."""

    def __init__(self, shared: Shared, number: int) -> None:
        self.number = number
        self._shared = shared
        self._what = f"{shared.name}/{number}"
        self._directory = files.open_dir(str(number), shared.directory)
        self._lock_fd = files.open_create("lock", self._directory)
        self._words: Any = shared.page.slot(number)
        self._tag = shared.page.tag
        self._map: Any = shared.page.map
        self._mutex: Any = threading.Lock()
        self._commit = GroupCommit(self._directory, self._words, self._tag, self._what)
        self._always = shared.durability == "always"
        self._interval = shared.durability == "interval"
        self._limit = shared.limits.segment_bytes
        self._fd = -1
        self._segment = -1
        self._salt = 0
        self._created_ms = 0
        self._index_fd = -1
        self._indexed = 0
        self._verified = False
        self._check_ms = 0  # when to look at age and free space again; 0: at once
        self._budget = 0  # bytes until free space is looked at again
        self._dirty = False
        self._dirty_bytes = 0
        self._closed = False
        self._readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()

    # --- append -----------------------------------------------------------------------------------------------------------------

    def append(
        self,
        records: Sequence[fmt.NewRecord],
        *,
        timestamp_ms: int,
        producer_id: int = 0,
        producer_seq: int = 0,
        deadline: float | None = None,
        durable: bool = False,
    ) -> int:
        """Store the records behind one another and return the offset of the first.

        records: (key or None, headers block, value, timestamp delta to `timestamp_ms` in ms, flags, attempt); at least one.
        One batch, or several of 1 MiB when they are larger; readers see all of them or none, a crash may keep some unacknowledged.
        deadline: monotonic seconds; bounds the wait for other writers. durable: wait for the medium whatever the durability is.
        Raises LockTimeout, DiskFull, WriteFailed, TooLarge, NoSuchTopic (nothing written); SyncFailed (unknown); ValueError.
        """
        if len(records) == 1:
            key, block, value, delta, flags, attempt = records[0]
            try:
                if key is None:
                    data = b"".join((META.pack(delta, len(value), 0xFFFFFFFF, len(block), flags, attempt), block, value))
                else:
                    data = b"".join((META.pack(delta, len(value), len(key), len(block), flags, attempt), key, block, value))
            except struct_error as error:
                raise ValueError(f"a number of the record does not fit its field: {error}") from None
            count = 1
            newest = timestamp_ms + delta
        else:
            if not records:
                raise ValueError("an append needs at least one record")
            data, count, span = fmt.encode_body(records)
            newest = timestamp_ms + span
        length = len(data)
        if length > 0xFFFC0:
            return self._append_large(records, (timestamp_ms, producer_id, producer_seq), deadline, durable)
        size = length + 64
        body_crc = crc32(data)
        mutex = self._mutex
        if mutex.locked():
            self._await_mutex(deadline)
        with mutex:
            try:
                try:
                    files.flock(self._lock_fd, 6)  # LOCK_EX | LOCK_NB
                except BlockingIOError:
                    files.lock_until(self._lock_fd, files.LOCK_EX, deadline, self._what)
                words = self._words
                seq = words[0]
                if seq & 1:
                    end, base, current = words[4], words[5], words[6]
                else:
                    end, base, current = words[1], words[2], words[3]
                if words[7] != self._tag or words[12] or current != self._segment or files.lseek(self._fd, 0, 2) != end:
                    end, base = self._settle()
                if timestamp_ms >= self._check_ms or size > self._budget or end + size > self._limit:
                    end, base = self._housekeep(size, end, base)
                last = words[13]
                if newest > last:
                    words[13] = last = newest
                tail = HEADER_TAIL.pack(length, count, base, timestamp_ms, last, body_crc, 0, 20, producer_id, producer_seq, 0)
                try:
                    written = files.pwritev(self._fd, (HEADER_HEAD.pack(BATCH_MAGIC_WORD, crc32(tail, self._salt)), tail, data), end)
                except OSError as error:
                    self._take_back(end, error)
                if written != size:
                    self._take_back(end, None)
                after = base + count
                seq = words[0]
                if seq & 1:
                    words[1], words[2], words[3] = end + size, after, self._segment
                else:
                    words[4], words[5], words[6] = end + size, after, self._segment
                words[0] = seq + 1
                if not self._always and words[10] == base:
                    words[10] = after
                self._budget -= size
                if end - self._indexed >= 65536:
                    self._index(base, end)
            finally:
                files.flock(self._lock_fd, 8)  # LOCK_UN
        if self._always or durable:
            self._commit.commit(after, deadline)
        elif self._interval:
            self._dirty_bytes += size
            if not self._dirty or self._dirty_bytes > self._shared.limits.dirty_bytes:
                self._mark_dirty()
        if self._map[512:1024] != state.NOBODY:
            self._shared.wakers.wake_all()
        return int(base)

    def _append_large(self, records: Sequence[fmt.NewRecord], stamp: tuple[int, int, int], deadline: float | None, durable: bool) -> int:
        """Over one write: several batches, published together by one commit of the tail."""
        bodies = [fmt.encode_body(part) for part in _parts(records)]
        size = sum(len(body.data) + HEADER_SIZE for body in bodies)
        if size > _APPEND_LIMIT:
            raise TooLarge(f"{self._what}: an append of {size} bytes is over the limit of {_APPEND_LIMIT}")
        if self._mutex.locked():
            self._await_mutex(deadline)
        with self._mutex:
            try:
                files.lock_until(self._lock_fd, files.LOCK_EX, deadline, self._what)
                end, base = self._housekeep(size, *self._settle())
                after = self._write_bodies(bodies, stamp, end, base)
                state.commit_tail(self._words, end + size, after, self._segment)
                if not self._always and self._words[state.VISIBLE] == base:
                    self._words[state.VISIBLE] = after
                self._budget -= size
            finally:
                files.flock(self._lock_fd, files.LOCK_UN)
        if self._always or durable:
            self._commit.commit(after, deadline)
        elif self._interval:
            self._dirty_bytes += size
            self._mark_dirty()
        self._shared.wakers.wake_all()
        return base

    def _write_bodies(self, bodies: list[Body], stamp: tuple[int, int, int], end: int, base: int) -> int:
        timestamp_ms, producer_id, sequence = stamp
        position, offset, newest = end, base, self._words[state.LAST_TS]
        for body in bodies:
            newest = max(newest, timestamp_ms + body.span)
            header = fmt.encode_header(body, offset, self._salt, (timestamp_ms, newest, producer_id, sequence))
            size = HEADER_SIZE + len(body.data)
            try:
                written = files.pwritev(self._fd, (header, body.data), position)
            except OSError as error:
                self._take_back(end, error)
            if written != size:
                self._take_back(end, None)
            if position - self._indexed >= index.SPACING:
                self._index(offset, position)
            position, offset, sequence = position + size, offset + body.records, sequence + body.records
        self._words[state.LAST_TS] = newest
        return offset

    def _await_mutex(self, deadline: float | None) -> None:
        """Wait until no thread of this process appends, no longer than the deadline."""
        left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
        if not self._mutex.acquire(timeout=left):
            raise LockTimeout(f"{self._what}: another thread held the partition until the deadline; nothing was written")
        self._mutex.release()

    def _take_back(self, end: int, error: OSError | None) -> None:
        """Remove what a failed write left behind and raise what happened. Always raises."""
        try:
            files.ftruncate(self._fd, end)
        except OSError as second:
            raise SyncFailed(f"{self._what}: a failed write could not be taken back; the records may be stored") from second
        self._index_cut(end)
        if error is None or error.errno in _FULL:
            raise DiskFull(f"{self._what}: no room for the records; nothing was written. Free some space") from error
        code = errno.errorcode.get(error.errno or 0, "unknown")
        raise WriteFailed(f"{self._what}: the write failed ({code}); nothing was written") from error

    # --- under the lock: the tail, rolling --------------------------------------------------------------------------------------

    def _settle(self) -> tuple[int, int]:
        """(end, next) of the true tail, recovering when slot and files disagree; opens the active segment."""
        words = self._words
        if self._shared.page.is_deleted:
            raise NoSuchTopic(f"topic {self._shared.name} has been deleted")
        if words[state.FLAGS] & state.FAILED and self._shared.durability != "none":
            raise WriteFailed(f"{self._what}: read-only since a sync failed. Look at the disk, then repair the log")
        if not self._verified or words[state.TAG] != self._tag or words[state.FLAGS] & state.ROLLING:
            self._recover()
        for _ in range(2):
            end, base, current = state.read_tail(words)
            try:
                if current != self._segment:
                    self._open_segment(current)
                if files.lseek(self._fd, 0, files.SEEK_END) == end:
                    return end, base
            except FileNotFoundError:
                words[state.TAG] = 0
            self._recover()
        end, base, current = state.read_tail(words)
        self._open_segment(current)
        return end, base

    def _recover(self) -> None:
        shared = self._shared
        site = recovery.Site(
            self._directory, shared.directory, shared.uuid, self.number, self._words, self._tag, self._always,
            lambda: shared.floor(self.number),
        )  # fmt: skip
        report = recovery.recover(site)
        self._verified = True
        self._segment = -1
        if report.cut_bytes or report.damaged:
            shared.report(f"{self._what}: recovered ({report.kind}): {report.cut_bytes} bytes cut, lost offsets {report.damaged}")

    def _open_segment(self, base: int) -> None:
        fd = files.open_write(segment.file_name(base), self._directory)
        try:
            header = segment.read_header(fd)
        except LogError:
            files.close(fd)
            raise
        self._close_segment()
        self._fd, self._segment, self._salt, self._created_ms = fd, base, header.salt, header.created_ms
        entries = index.load(self._directory, base)
        self._indexed = entries[-1] & 0xFFFFFFFF if entries else 0

    def _close_segment(self) -> None:
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                files.close(fd)
        self._fd = self._index_fd = self._segment = -1

    def _housekeep(self, size: int, end: int, base: int) -> tuple[int, int]:
        """Look at free space (every 16 MiB or second) and roll a segment that is full or old. Returns (end, next)."""
        now_ms = int(time.time() * 1000)
        limits = self._shared.limits
        if now_ms >= self._check_ms or size > self._budget:
            if files.free_bytes(self._directory) < limits.min_free_bytes + size:
                self._check_ms = 0
                raise DiskFull(f"{self._what}: less than {limits.min_free_bytes} bytes are free; nothing was written. Free some space")
            self._check_ms = now_ms + _AGE_CHECK_MS
            self._budget = max(limits.check_bytes, size)
        old = now_ms - self._created_ms > limits.segment_age_s * 1000
        if end > SEGMENT_HEADER_SIZE and (end + size > self._limit or old):
            self._roll(base)
            return SEGMENT_HEADER_SIZE, base
        return end, base

    def _roll(self, base: int) -> None:
        """Begin a new segment at `base`. After a crash in here ROLLING says that an empty file above the tail is an orphan."""
        words = self._words
        if self._always:
            self._commit.sync(mark_now=True)
        words[state.FLAGS] |= state.ROLLING
        try:
            segment.create(self._directory, base, self._shared.uuid, self.number, durable=self._shared.durability != "none")
        except OSError as error:
            code = DiskFull if error.errno in _FULL else WriteFailed
            raise code(f"{self._what}: a new segment could not be made; nothing was written") from error
        state.commit_tail(words, SEGMENT_HEADER_SIZE, base, base)
        words[state.FLAGS] &= ~state.ROLLING & 0xFF
        self._open_segment(base)
        if not self._always:
            self._mark_dirty()  # in every mode the old segment is synced, here in the background

    def _index(self, offset: int, position: int) -> None:
        if self._index_fd < 0:
            self._index_fd = files.open_append(segment.index_name(self._segment), self._directory)
        try:
            files.append(self._index_fd, index.entry(self._segment, offset, position))
        except OSError:
            return  # a hint: readers hop over headers instead
        self._indexed = position

    def _index_cut(self, end: int) -> None:
        if self._indexed >= end:
            index.cut(self._directory, self._segment, end)
            if self._index_fd >= 0:
                files.close(self._index_fd)
            self._index_fd, self._indexed = -1, 0

    # --- durability -------------------------------------------------------------------------------------------------------------

    def _mark_dirty(self) -> None:
        urgent = self._dirty_bytes > self._shared.limits.dirty_bytes
        self._dirty = True
        if urgent:
            self._dirty_bytes = 0
        self._shared.syncer.mark(self._sync_marked, urgent=urgent)

    def _sync_marked(self) -> None:
        self._dirty = False  # before the tail is read: a later append marks again
        self._dirty_bytes = 0
        try:
            self._commit.sync()
        except SyncFailed as error:
            self._shared.report(str(error))

    def sync(self) -> None:
        """Make all that is appended durable, and note it in the checkpoint. SyncFailed."""
        self._commit.sync(mark_now=True)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def ensure_valid(self) -> None:
        """Recover when the slot is not valid (reboot, copied directory); else nothing. Takes the lock only in that case."""
        if self._words[state.TAG] != self._tag:
            with self._mutex, files.locked(self._lock_fd, what=self._what):
                self._settle()

    def start(self) -> int:
        """First offset held."""
        self.ensure_valid()
        return int(self._words[state.LOG_START])

    def end(self) -> int:
        """Next offset that consumers will see; with `always` what is not synced yet is not counted."""
        if self._words[7] != self._tag:
            self.ensure_valid()
        if self._always:
            return int(self._words[state.VISIBLE])
        return state.read_tail(self._words)[1]

    @overload
    def reader(self, offset: int) -> Reader[LogRecord]: ...
    @overload
    def reader(self, offset: int, record_class: type[R]) -> Reader[R]: ...
    def reader(self, offset: int, record_class: type[Any] = LogRecord) -> Reader[Any]:
        """A reader at `offset`; one thread, closed by its owner."""
        found: Reader[Any] = Reader(self, self._shared, self._directory, offset, record_class)
        self._readers.add(found)
        return found

    def locate(self, time_ms: int) -> int:
        """First offset whose timestamp is at or after `time_ms`; the end if there is none. Cost: about 20 headers read."""
        self.ensure_valid()
        return locate.locate(self._directory, self._words, self.end(), time_ms)

    def size_bytes(self) -> int:
        """Bytes of all segments."""
        total = 0
        for base in segment.bases(self._directory):
            fd = files.open_read(segment.file_name(base), self._directory)
            total += files.size_of(fd)
            files.close(fd)
        return total

    # --- ending -----------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close descriptors and readers. Idempotent; the log has ended the syncer before."""
        if not self._closed:
            with self._mutex:
                self._end(Gone(ClosedHandle, f"{self._what}: the log is closed"))

    def forget(self, gone: Gone) -> None:
        """In a forked child: close every descriptor (the parent keeps its locks), take no lock, fail from now on."""
        if not self._closed:
            self._end(gone)

    def _end(self, gone: Gone) -> None:
        self._closed = True
        for reader in list(self._readers):
            reader.forget(gone)
        for fd in (self._fd, self._index_fd, self._lock_fd, self._directory, *self._commit.fds()):
            if fd >= 0:
                files.close(fd)
        self._fd = self._index_fd = self._lock_fd = self._directory = -1
        self._commit.forget(gone)
        self._words = self._map = self._mutex = gone


def _parts(records: Sequence[fmt.NewRecord]) -> list[Sequence[fmt.NewRecord]]:
    """Cut into runs whose batches stay within one write; a larger record stands alone."""
    parts: list[Sequence[fmt.NewRecord]] = []
    first, size = 0, HEADER_SIZE
    for number, (key, block, value, *_) in enumerate(records):
        more = META_SIZE + len(key or b"") + len(block) + len(value)
        if number > first and size + more > fmt.WRITE_LIMIT:
            parts.append(records[first:number])
            first, size = number, HEADER_SIZE
        size += more
    parts.append(records[first:])
    return parts
