"""One partition in one process: append under the lock, publish the tail, and the doors to reading and syncing.

The publish path is written out in one function on purpose: at 5 us a message every call of Python is 1 %.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from struct import error as struct_error
from typing import Any, TypeVar, overload

from . import files, index, locate, mutex, segment, state
from . import format as fmt
from .active import ActiveSegment
from .delays import Delays
from .errors import ClosedHandle, Gone, LockTimeout, TooLarge
from .format import BATCH_MAGIC_WORD, HEADER_HEAD, HEADER_SIZE, HEADER_TAIL, META_SIZE, Body, crc32
from .reader import LogRecord, Reader
from .shared import Shared

_APPEND_LIMIT = 1 << 30  # bytes of one append: a segment may outgrow its limit by it and must stay below 4 GiB
_REMOVE_S = 1.0
_VALID_S = 30.0  # a log that has to be recovered may be in the hands of another process that does
R = TypeVar("R")


class PartitionLog(ActiveSegment):
    """Appends to and reads from one partition. Any thread; other processes may do the same at the same time."""

    def __init__(self, shared: Shared, number: int) -> None:
        super().__init__(shared, number)
        self._map: Any = shared.page.map
        self._mutex: Any = threading.Lock()
        self._interval = shared.durability == "interval"
        self._closed = False
        self._readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()
        # What is delayed; a band, which keeps it, has none of its own.
        self.delays = None if shared.bands is None else Delays(self, shared, self._directory, shared.bands)

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
        What is delayed and due at `timestamp_ms` takes its place first.
        Raises LockTimeout, DiskFull, WriteFailed, TooLarge, NoSuchTopic (nothing written); SyncFailed (unknown); ValueError.
        """
        if timestamp_ms >= self._words[14]:
            self._move_due(timestamp_ms, deadline)
        data, count, span = fmt.encode_records(records)
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
                    end, base = self._housekeep(size, end, base, deadline)
                last = words[13]
                if newest < last:
                    newest = last
                tail = HEADER_TAIL.pack(length, count, base, timestamp_ms, newest, body_crc, 0, 20, producer_id, producer_seq, 0)
                try:
                    written = files.pwritev(self._fd, (HEADER_HEAD.pack(BATCH_MAGIC_WORD, crc32(tail, self._salt)), tail, data), end)
                except OSError as error:
                    self._take_back(end, error)
                if written != size:
                    self._take_back(end, None)
                after = base + count
                if newest > last:
                    words[13] = newest
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
            except struct_error as error:
                raise ValueError(f"a number of the batch does not fit its field: {error}") from None
            finally:
                files.flock(self._lock_fd, 8)  # LOCK_UN
        self.follow_up(after, size, deadline, durable)
        return int(base)

    def follow_up(self, after: int, size: int, deadline: float | None, durable: bool) -> None:
        """What comes after the tail is published: make it durable, then wake sleepers, who would find nothing before."""
        if self._always or durable:
            self._commit.commit(after, deadline)
        elif self._interval:
            self._dirty_bytes += size
            if not self._dirty or self._dirty_bytes > self._shared.limits.dirty_bytes:
                self._mark_dirty()
        if self._map[512:1024] != state.NOBODY:
            self._shared.wakers.wake_all()

    def _append_large(self, records: Sequence[fmt.NewRecord], stamp: tuple[int, int, int], deadline: float | None, durable: bool) -> int:
        """Over one write: several batches, published together by one commit of the tail."""
        base, after, size, _ = self.write([fmt.encode_body(part) for part in _parts(records)], stamp, deadline)
        self.follow_up(after, size, deadline, durable)
        return base

    def write(self, bodies: list[Body], stamp: tuple[int, int, int], deadline: float | None) -> tuple[int, int, int, int]:
        """Store batches behind one another, for `follow_up` to make them durable and to wake.

        Returns (offset of the first record, next offset, bytes, position of the first batch).

        stamp: base timestamp ms, producer id, producer sequence of the first record. Raises as `append`.
        """
        size = sum(len(body.data) + HEADER_SIZE for body in bodies)
        if size > _APPEND_LIMIT:
            raise TooLarge(f"{self._what}: an append of {size} bytes is over the limit of {_APPEND_LIMIT}")
        if self._mutex.locked():
            self._await_mutex(deadline)
        with self._mutex:
            try:
                files.lock_until(self._lock_fd, files.LOCK_EX, deadline, self._what)
                end, base = self._housekeep(size, *self._settle(), deadline)
                after = self._write_bodies(bodies, stamp, end, base)
                state.commit_tail(self._words, end + size, after, self._segment)
                if not self._always and self._words[state.VISIBLE] == base:
                    self._words[state.VISIBLE] = after
                self._budget -= size
            finally:
                files.flock(self._lock_fd, files.LOCK_UN)
        return base, after, size, end

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

    @property
    def due_ms(self) -> int:
        """When what is delayed is due next, ms since the epoch; 0: not known, `move` looks; `state.NOT_DUE`."""
        return int(self._words[14])

    def move(self, now_ms: int, deadline: float | None = None) -> bool:
        """Give a part of what is due its place; True when there may be more. Raises as `append`."""
        return self.delays is not None and self._words[14] <= now_ms and self.delays.move(now_ms, deadline)

    def _move_due(self, now_ms: int, deadline: float | None) -> None:
        """What is due comes before what is published now, or the append is late: LockTimeout."""
        while self.move(now_ms, deadline):
            if deadline is not None and time.monotonic() >= deadline:
                raise LockTimeout(f"{self._what}: more delayed records were due first than could be moved; nothing was written")

    def _await_mutex(self, deadline: float | None) -> None:
        """Wait until no thread of this process appends, no longer than the deadline."""
        if not mutex.wait_until_free(self._mutex, deadline):
            raise LockTimeout(f"{self._what}: another thread held the partition until the deadline; nothing was written")

    # --- durability -------------------------------------------------------------------------------------------------------------

    def sync(self, deadline: float | None = None) -> None:
        """Make all that is appended durable, and note it in the checkpoint. SyncFailed; SyncLater when it was not tried by `deadline`."""
        self._commit.sync(deadline, mark_now=True)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def ensure_valid(self) -> None:
        """Recover when the slot is not valid (reboot, copied directory); else nothing. Takes the lock only in that case."""
        if self._words[state.TAG] != self._tag:
            with self._mutex, files.locked(self._lock_fd, deadline=time.monotonic() + _VALID_S, what=self._what):
                self._settle()

    def recover(self) -> None:
        """Make the tail true, as the next append would. Raises as `append`."""
        with self._mutex, files.locked(self._lock_fd, deadline=time.monotonic() + _VALID_S, what=self._what):
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

    def tail(self) -> int:
        """Next offset, whether it is synced or not."""
        self.ensure_valid()
        return state.read_tail(self._words)[1]

    @property
    def directory(self) -> int:
        """Descriptor of its directory."""
        return self._directory

    @property
    def slot(self) -> state.Words:
        """Its words in the state page."""
        return self._words

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
            with suppress(FileNotFoundError):  # retention was faster
                fd = files.open_read(segment.file_name(base), self._directory)
                total += files.size_of(fd)
                files.close(fd)
        return total

    def seal(self, age_s: float) -> None:
        """Begin a new segment when the active one holds something and is older: what is quiet can be removed too. Raises as `append`."""
        deadline = time.monotonic() + _REMOVE_S
        with self._mutex, files.locked(self._lock_fd, deadline=deadline, what=self._what):
            end, base = self._settle()
            if end > fmt.SEGMENT_HEADER_SIZE and time.time() * 1000 - self._created_ms >= age_s * 1000:
                self._roll(base, deadline)

    def remove_before(self, base: int) -> int:
        """Remove the segments that end at or before the one beginning at `base`; how many. Readers that have one open finish it.

        Never the active one. LockTimeout beside a writer that does not let go.
        """
        with self._mutex, files.locked(self._lock_fd, deadline=time.monotonic() + _REMOVE_S, what=self._what):
            self._settle()
            found = segment.bases(self._directory)
            keep = segment.holding(found, min(base, state.read_tail(self._words)[2]))
            doomed = [one for one in found if keep is not None and one < keep]
            if keep is not None:
                self._words[state.LOG_START] = max(keep, self._words[state.LOG_START])
        for one in doomed:  # the start is told first: who comes now finds it, who is reading has the file open
            files.unlink(segment.index_name(one), self._directory)
            files.unlink(segment.file_name(one), self._directory)
            files.sync_dir(self._directory)  # one by one: a power loss must not leave a hole, for what stands behind one is cut
        return len(doomed)

    # --- ending -----------------------------------------------------------------------------------------------------------------

    def close(self, deadline: float | None = None) -> None:
        """Close descriptors and readers. Idempotent; the log has ended the syncer before.

        What a thread still uses at `deadline` (a write or a sync that does not return) stays open: its descriptor would be reused.
        """
        if self._closed:
            return
        gone = Gone(ClosedHandle, f"{self._what}: the log is closed")
        if self.delays is not None:
            self.delays.close(gone, deadline)  # first: who moves what is due waits for the partition
        lock, held = self._mutex, list[bool]()
        try:
            idle = mutex.acquire(lock, deadline, held)
            synced = self._commit.close(gone, deadline)
            self._end(gone, close=idle and synced)
        finally:
            if True in held:
                lock.release()

    def forget(self, gone: Gone) -> None:
        """In a forked child: close every descriptor (the parent keeps its locks), take no lock, fail from now on."""
        if not self._closed:
            self._commit.forget(gone)
            if self.delays is not None:
                self.delays.forget(gone)
            self._end(gone)

    def _end(self, gone: Gone, *, close: bool = True) -> None:
        self._closed = True
        for reader in list(self._readers):
            reader.forget(gone)
        if close:
            files.close_all((self._fd, self._index_fd, self._lock_fd, self._directory))
            self._fd = self._index_fd = self._lock_fd = self._directory = -1
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
