"""Making appended records durable: group commit (leader and followers) per partition, and the background syncer of `interval`.

The leader reads the target first, then syncs every segment up to it, then stores `synced`, then `visible`. One wake-up object per follower:
"lock, look again, sync" gave half the throughput and six times the p99, because the thread that just synced re-takes an unfair lock while
threads that are durable already still wait. Descriptors here are never the appender's: a roll closes those.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import checkpoint, files, segment, state
from .checkpoint import Mark
from .errors import LockTimeout, SyncFailed

CHECKPOINT_S = 1.0


class _Follower:
    """A thread that waits for a sync. outcome: None = it has been made the leader."""

    __slots__ = ("done", "gate", "outcome", "target")

    def __init__(self, target: int) -> None:
        self.target = target
        self.gate = threading.Lock()
        self.gate.acquire()
        self.done = False
        self.outcome: SyncFailed | None = None


class GroupCommit:
    """The syncs of one partition in one process. Any thread; `sync.lock` serialises processes."""

    def __init__(self, directory: int, words: state.Words, tag: int, what: str) -> None:
        self._directory = directory
        self._words = words
        self._tag = tag
        self._what = what
        self._lock_fd = files.open_create("sync.lock", directory)
        self._mutex: Any = threading.Lock()
        self._busy: Any = threading.Lock()  # threads share the descriptor of sync.lock, so flock does not keep them apart
        self._leading = False
        self._followers: list[_Follower] = []
        self._fds: dict[int, int] = {}
        self._mark = Mark(0, -1, 0)
        self._marked_at = 0.0

    def commit(self, target: int, deadline: float | None) -> None:
        """Return when everything below `target` is on the medium. SyncFailed: it may or may not be."""
        with self._mutex:
            if self._words[state.SYNCED] >= target:
                return
            me = _Follower(target) if self._leading else None
            if me is not None:
                self._followers.append(me)
            self._leading = True
        if me is not None and self._follow(me, deadline):
            return
        self._lead(target, deadline)

    def _follow(self, me: _Follower, deadline: float | None) -> bool:
        """True: synced. False: this thread leads now."""
        left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
        if not me.gate.acquire(timeout=left):
            with self._mutex:
                waiting = me in self._followers
                if waiting:
                    self._followers.remove(me)
            if waiting:
                raise SyncFailed(f"{self._what}: not synced by the deadline; the records may be stored")
        if me.outcome is not None:
            raise me.outcome
        return me.done

    def _lead(self, target: int, deadline: float | None) -> None:
        failure: SyncFailed | None = None
        try:
            self.sync(deadline)
        except SyncFailed as error:
            failure = error
            raise
        finally:
            # Always, also when another process had synced already: a leader that returned early here once stranded its followers.
            self._hand_over(failure)
        if self._words[state.SYNCED] < target:
            raise SyncFailed(f"{self._what}: the state page was reset while a sync ran; the records may be stored")

    def _hand_over(self, failure: SyncFailed | None) -> None:
        with self._mutex:
            synced = self._words[state.SYNCED]
            served = [one for one in self._followers if failure is not None or one.target <= synced]
            self._followers = [one for one in self._followers if one not in served]
            heir = self._followers.pop(0) if self._followers else None
            self._leading = heir is not None
        for one in served:
            one.outcome = SyncFailed(str(failure)) if failure is not None else None
            one.done = True
            one.gate.release()
        if heir is not None:
            heir.gate.release()

    def sync(self, deadline: float | None = None, *, mark_now: bool = False) -> None:
        """Sync all that is appended now. After one failure nothing is tried again on that range: the kernel may call the pages clean."""
        left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
        if not self._busy.acquire(timeout=left):
            raise SyncFailed(f"{self._what}: another thread synced until the deadline; the records may be stored")
        try:
            files.lock_until(self._lock_fd, files.LOCK_EX, deadline, f"{self._what}: sync lock")
            self._sync_locked(mark_now)
        except LockTimeout:
            raise SyncFailed(f"{self._what}: another process held the sync lock until the deadline; the records may be stored") from None
        finally:
            files.flock(self._lock_fd, files.LOCK_UN)
            self._busy.release()

    def _sync_locked(self, mark_now: bool) -> None:
        words = self._words
        if words[state.TAG] != self._tag:
            return  # reset by somebody; whoever appends next recovers and syncs
        if words[state.FLAGS] & state.FAILED:
            raise SyncFailed(f"{self._what}: an earlier sync failed; the partition is read-only until repaired")
        end, next_offset, base = state.read_tail(words)
        if words[state.SYNCED] < next_offset:
            self._sync_segments(words[state.SYNCED], base)
            words[state.SYNCED] = next_offset
        if words[state.VISIBLE] < next_offset:
            words[state.VISIBLE] = next_offset
        self._checkpoint(Mark(next_offset, base, end), mark_now)

    def _sync_segments(self, synced: int, last: int) -> None:
        try:
            bases = self._open_segments(synced, last)
        except OSError as error:  # too many open files, or the topic was deleted: nothing was tried, so nothing is spoiled
            raise SyncFailed(f"{self._what}: a segment cannot be opened to sync it; the records may be stored") from error
        try:
            for base in bases:
                files.sync_data(self._fds[base])
        except OSError as error:
            self._words[state.FLAGS] |= state.FAILED
            raise SyncFailed(f"{self._what}: fdatasync failed; the records may be stored. Look at the disk, then repair the log") from error

    def _open_segments(self, synced: int, last: int) -> list[int]:
        """Every segment that may hold something between the durable mark and the tail; descriptors of others are closed."""
        bases = [last]
        if last > synced or last not in self._fds:
            found = segment.bases(self._directory)
            first = segment.holding(found, synced)
            bases = [base for base in found if (first is None or base >= first) and base <= last]
        for base in [one for one in self._fds if one not in bases]:
            files.close(self._fds.pop(base))
        for base in bases:
            if base not in self._fds:
                self._fds[base] = files.open_write(segment.file_name(base), self._directory)
        return bases

    def _checkpoint(self, mark: Mark, now: bool) -> None:
        if mark == self._mark:
            return
        clock = time.monotonic()
        if now or mark.segment != self._mark.segment or clock - self._marked_at >= CHECKPOINT_S:
            with suppress(OSError):  # the older mark stays true; the next sync tries again
                checkpoint.store(self._directory, mark)
                self._mark, self._marked_at = mark, clock

    def close(self, gone: Any) -> None:
        """Wait for a running sync, then close its descriptors: one that is reused would be synced in the place of the segment."""
        with self._busy:
            self.forget(gone)

    def forget(self, gone: Any) -> None:
        """Close without waiting (a forked child has no thread that syncs) and fail from now on."""
        files.close_all((self._lock_fd, *self._fds.values()))
        self._fds = {}
        self._words = self._mutex = self._busy = gone


class Syncer:
    """The one background thread of a log: syncs partitions that were marked, `interval_s` after the first mark; sleeps when none is.

    Started by the first mark, ended by `close`. A failure marks the partition FAILED, so its next append is refused.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._marked: list[Callable[[], None]] = []
        self._urgent = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def mark(self, sync: Callable[[], None], *, urgent: bool = False) -> None:
        with self._changed:
            self._marked.append(sync)
            self._urgent |= urgent
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="mqsdk-log-syncer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what was marked is synced first. Idempotent."""
        with self._changed:
            self._closing = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._marked or self._closing)
                self._changed.wait_for(lambda: self._urgent or self._closing, timeout=self._interval_s)
                marked, self._marked, self._urgent = self._marked, [], False
                closing = self._closing
            for sync in dict.fromkeys(marked):
                sync()
            if closing and not marked:
                return
