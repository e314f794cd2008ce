"""The active segment of a partition: its descriptor, the true tail, rolling, taking back what failed. All of it runs under the lock."""

from __future__ import annotations

import errno
import time
from typing import Any, NoReturn

from . import files, index, recovery, segment, state
from .commit import READ_ONLY, GroupCommit
from .errors import ClosedHandle, DiskFull, LockTimeout, LogError, NoSuchTopic, ReadOnly, StaleHandle, SyncFailed, SyncLater, WriteFailed
from .format import SEGMENT_HEADER_SIZE
from .shared import Shared

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_CHECK_MS = 1000
_SYNC_PATIENCE_S = 0.5  # of the one thread that syncs all partitions, once: another process may be stopped while it syncs this one


class ActiveSegment:
    """What `PartitionLog` is built on; a base class, because a call through another object would cost the publish path 2 %."""

    def __init__(self, shared: Shared, number: int) -> None:
        self.number = number
        self._shared = shared
        self._what = f"{shared.name}/{number}"
        self._words: Any = shared.page.slot(number)
        self._tag = shared.page.tag
        self._directory = files.open_dir(str(number), shared.directory)
        self._lock_fd = -1
        try:
            self._lock_fd = files.open_create("lock", self._directory)
            self._commit = GroupCommit(self._directory, self._words, self._tag, self._what, shared.sync_name)
        except BaseException:
            files.close_all((self._lock_fd, self._directory))
            raise
        self._always = shared.durability == "always"
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
        self._late = False  # the last background sync could not be tried, and that has been told

    @property
    def is_read_only(self) -> bool:
        """A sync failed in this boot. After a reboot the flag is as little worth as the rest of the slot: recovery looks at the files."""
        return bool(self._words[state.FLAGS] & state.FAILED) and self._words[state.TAG] == self._tag

    def _take_back(self, end: int, error: OSError | None) -> NoReturn:
        """Remove what a failed write left behind and raise what happened. Always raises.

        The cut is synced, or a power loss would bring it back: records that were refused, or damage at the end of a segment.
        """
        try:
            files.ftruncate(self._fd, end)
            self._sync_cut()
        except OSError as second:
            if second.errno == errno.EROFS and files.lseek(self._fd, 0, files.SEEK_END) == end:  # nothing was written or can be cut
                raise self._write_failed(error) from second
            raise SyncFailed(f"{self._what}: a failed write could not be taken back; the records may be stored") from second
        self._index_cut(end)
        raise self._write_failed(error) from error

    def _write_failed(self, error: OSError | None) -> LogError:
        """What to raise for a write of which nothing is left. None: it was short."""
        if error is None or error.errno in _FULL:
            return DiskFull(f"{self._what}: no room for the records; nothing was written. Free some space")
        code = errno.errorcode.get(error.errno or 0, "unknown")
        return WriteFailed(f"{self._what}: the write failed ({code}); nothing was written")

    def _sync_cut(self) -> None:
        try:
            files.sync_data(self._fd)
        except OSError:
            self._words[state.FLAGS] |= state.FAILED  # what was appended before is in the same file
            raise

    def _settle(self) -> tuple[int, int]:
        """(end, next) of the true tail, recovering when slot and files disagree; opens the active segment."""
        words = self._words
        if self._shared.page.is_deleted:
            raise NoSuchTopic(f"topic {self._shared.name} has been deleted")
        if self.is_read_only and self._shared.durability != "none":
            raise ReadOnly(f"{self._what}: read-only since a sync failed; {READ_ONLY}")
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
        fds = self._fd, self._index_fd
        self._fd = self._index_fd = self._segment = -1
        files.close_all(fds)

    def _housekeep(self, size: int, end: int, base: int, deadline: float | None) -> tuple[int, int]:
        """Look at free space (every 16 MiB or second) and roll a segment that is full or old. Returns (end, next)."""
        now_ms = int(time.time() * 1000)
        limits = self._shared.limits
        if now_ms >= self._check_ms or size > self._budget:
            if files.free_bytes(self._directory) < limits.min_free_bytes + size:
                self._check_ms = 0
                raise DiskFull(f"{self._what}: less than {limits.min_free_bytes} bytes are free; nothing was written. Free some space")
            self._check_ms = now_ms + _CHECK_MS
            self._budget = max(limits.check_bytes, size)
        old = now_ms - self._created_ms > limits.segment_age_s * 1000
        if end > SEGMENT_HEADER_SIZE and (end + size > self._limit or old):
            self._roll(base, deadline)
            return SEGMENT_HEADER_SIZE, base
        return end, base

    def _roll(self, base: int, deadline: float | None) -> None:
        """Begin a new segment at `base`. After a crash in here ROLLING says that an empty file above the tail is an orphan."""
        words = self._words
        if self._always:
            try:
                self._commit.sync(deadline, mark_now=True)
            except SyncLater:
                raise LockTimeout(f"{self._what}: the full segment could not be synced by the deadline; nothing was written") from None
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

    def _mark_dirty(self) -> None:
        urgent = self._dirty_bytes > self._shared.limits.dirty_bytes
        if urgent:
            self._dirty_bytes = 0
        self._dirty = True  # before the mark: the sync takes it back
        if not self._shared.syncer.mark(self._sync_marked, urgent=urgent):
            self._dirty = False  # the next append tries again

    def _sync_marked(self) -> None:
        self._dirty = False  # before the tail is read: a later append marks again
        self._dirty_bytes = 0
        try:
            self._commit.sync(time.monotonic() + (0 if self._late else _SYNC_PATIENCE_S))
            self._late = False
        except (ClosedHandle, StaleHandle):
            return  # the topic was deleted or the log closed; the thread has others to serve
        except SyncLater as error:
            if not self._late:
                self._shared.report(f"{self._what}: background sync: {error}; tried again until it succeeds")
            self._late = True
            self._mark_dirty()
        except (SyncFailed, OSError) as error:
            self._shared.report(f"{self._what}: background sync: {error}")
