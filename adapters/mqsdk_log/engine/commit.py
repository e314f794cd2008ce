"""Making appended records durable: group commit (leader and followers) per partition.

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

from . import checkpoint, files, mutex, segment, state
from .checkpoint import Mark
from .errors import LockTimeout, SyncFailed, SyncLater

CHECKPOINT_S = 1.0
_NEVER = 1 << 64  # no offset is as high
READ_ONLY = "look at the disk, then `mqsdk log repair`, or reboot: the first start after it checks what is stored"


class _Waiter:
    """A thread in `commit`: the leader, or one that waits behind its gate. done: synced or failed, see `outcome`; else it leads."""

    __slots__ = ("done", "gate", "outcome", "target")

    def __init__(self, target: int) -> None:
        self.target = target
        self.gate = threading.Lock()
        self.gate.acquire()
        self.done = False
        self.outcome: SyncFailed | None = None


class GroupCommit:
    """The syncs of one partition in one process. Any thread; `sync.lock` serialises processes."""

    def __init__(self, directory: int, words: state.Words, tag: int, what: str, sync_topic: Callable[[], None]) -> None:
        """sync_topic: makes sure that the topic's own name is on the medium; cheap after the first time."""
        self._directory = directory
        self._words = words
        self._tag = tag
        self._what = what
        self._sync_topic = sync_topic
        self._lock_fd = files.open_create("sync.lock", directory)
        self._mutex: Any = threading.Lock()
        self._busy: Any = threading.Lock()  # threads share the descriptor of sync.lock, so flock does not keep them apart
        self._leader: _Waiter | None = None
        self._followers: list[_Waiter] = []
        self._fds: dict[int, int] = {}
        self._mark = Mark(0, -1, 0)
        self._marked_at = 0.0
        self._named = -1  # base of the newest segment whose name is on the medium for sure

    def commit(self, target: int, deadline: float | None) -> None:
        """Return when everything below `target` is on the medium. SyncFailed: it may or may not be."""
        me = _Waiter(target)
        try:
            with self._mutex:
                if self._words[state.SYNCED] >= target:
                    return
                if self._leader is None:
                    self._leader = me
                else:
                    self._followers.append(me)
            if self._leader is not me and self._follow(me, deadline):
                return
            self._lead(me, deadline)
        except BaseException:  # a signal handler that raises, too: a lead that nobody has would make everybody else wait for ever
            if not self._withdraw(me):
                self._hand_over(me, None)
            raise

    def _follow(self, me: _Waiter, deadline: float | None) -> bool:
        """True: synced. False: this thread leads now."""
        if not me.gate.acquire(timeout=mutex.left_s(deadline)) and self._withdraw(me):
            raise SyncFailed(f"{self._what}: not synced by the deadline; the records may be stored")
        if me.outcome is not None:
            raise me.outcome
        return me.done

    def _withdraw(self, me: _Waiter) -> bool:
        """Wait no longer. False: this thread did not wait any more, it may be the leader."""
        with self._mutex:
            if me not in self._followers:
                return False
            self._followers.remove(me)
            return True

    def _lead(self, me: _Waiter, deadline: float | None) -> None:
        failure: SyncFailed | None = None
        try:
            self.sync(deadline, target=me.target)
        except SyncFailed as error:
            failure = error
            raise
        finally:
            # Always, also when another process had synced already: a leader that returned early here once stranded its followers.
            self._hand_over(me, failure)
        if self._words[state.SYNCED] < me.target:
            raise SyncFailed(f"{self._what}: the state page was reset while a sync ran; the records may be stored")

    def _hand_over(self, me: _Waiter, failure: SyncFailed | None) -> None:
        """Answer those who are served and give the lead to the next. Nothing when another one leads; goes on where it was interrupted.

        CPython runs signal handlers after calls and at the ends of loops only, so none comes between a line that takes somebody out of
        the list and the next one, which opens the gate.
        """
        with self._mutex:
            if self._leader is not me:
                return
            synced, waiting, index = self._words[state.SYNCED], self._followers, 0
            while index < len(waiting):
                one = waiting[index]
                if failure is None and one.target > synced:
                    index += 1
                    continue
                one.outcome = SyncFailed(str(failure)) if failure is not None else None
                one.done = True
                del waiting[index]
                one.gate.release()
            if not waiting:
                self._leader = None
                return
            self._leader = heir = waiting[0]
            del waiting[0]
            heir.gate.release()

    def sync(self, deadline: float | None = None, *, mark_now: bool = False, target: int | None = None) -> None:
        """Sync all that is appended now. After one failure nothing is tried again on that range: the kernel may call the pages clean.

        target: whoever syncs up to it, in any process, has done what is wanted. Without that look each of eight processes made a sync for
        each of its appends, because the one that had just synced had appended again: 183 syncs for 200 appends, 40 with it.
        SyncLater: nothing was tried, for want of a lock by `deadline` or of a descriptor, so it may be tried again.
        """
        busy, held = self._busy, list[bool]()
        try:
            if not mutex.acquire(busy, deadline, held):
                raise SyncLater(f"{self._what}: another thread synced until the deadline; the records may be stored")
            try:
                words, until = self._words, _NEVER if target is None else target
                files.lock_until(self._lock_fd, files.LOCK_EX, deadline, f"{self._what}: sync lock", lambda: words[state.SYNCED] >= until)
                if words[state.SYNCED] < until:
                    self._sync_locked(mark_now)
            finally:
                files.flock(self._lock_fd, files.LOCK_UN)
        except LockTimeout:
            raise SyncLater(f"{self._what}: another process held the sync lock until the deadline; the records may be stored") from None
        finally:
            if True in held:
                busy.release()

    def _sync_locked(self, mark_now: bool) -> None:
        words = self._words
        if words[state.TAG] != self._tag:
            return  # reset by somebody; whoever appends next recovers and syncs
        if words[state.FLAGS] & state.FAILED:
            raise SyncFailed(f"{self._what}: read-only since a sync failed; {READ_ONLY}")
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
            raise SyncLater(f"{self._what}: a segment cannot be opened to sync it; the records may be stored") from error
        try:
            for base in bases:
                files.sync_data(self._fds[base])
            if last != self._named:
                self._sync_names()
                self._named = last
        except OSError as error:
            self._words[state.FLAGS] |= state.FAILED
            raise SyncFailed(f"{self._what}: fdatasync failed; the records may be stored; {READ_ONLY}") from error

    def _sync_names(self) -> None:
        """Of a new segment: with `none` its maker did not sync it, and elsewhere it may have died before it did. And of the topic."""
        self._sync_topic()
        files.sync_dir(self._directory)

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

    def close(self, gone: Any, deadline: float | None = None) -> bool:
        """Wait for a running sync, then close its descriptors: one that is reused would be synced in the place of the segment.

        False: it still ran at `deadline` and keeps them.
        """
        busy, held = self._busy, list[bool]()
        try:
            if mutex.acquire(busy, deadline, held):
                self.forget(gone)
            else:
                self._words = self._mutex = self._busy = gone
            return held[0]
        finally:
            if True in held:
                busy.release()

    def forget(self, gone: Any) -> None:
        """Close without waiting (a forked child has no thread that syncs) and fail from now on."""
        files.close_all((self._lock_fd, *self._fds.values()))
        self._fds = {}
        self._words = self._mutex = self._busy = gone
