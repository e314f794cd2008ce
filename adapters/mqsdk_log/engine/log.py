"""A root directory: opening it safely, its topics, closing it. Survives neither a fork nor being moved while open."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import files, mutex, root, topic
from .errors import (
    ClosedHandle,
    Gone,
    LockTimeout,
    NoSuchTopic,
    StaleHandle,
    SyncFailed,
    SyncLater,
    TopicExists,
)
from .partition import PartitionLog
from .root import MARKER, TOPICS
from .shared import Durability, Limits
from .syncer import Syncer
from .topic import Rules, Topic

DEFAULT_PARTITIONS = 8
# For who gives no deadline, as the seam's `Admin` cannot: beside a process that was stopped while it holds the root lock, a publish to a
# new topic ends so much later than asked for at most. Making a topic holds the lock for some 10 ms.
PATIENCE_S = 2.0


class Log:
    """One open root. Any thread; other processes may have it open too."""

    def __init__(self, path: Path, directory: int, presence: int, durability: Durability, interval_s: float, limits: Limits) -> None:
        """Use `Log.open`."""
        self.path = path
        self.durability: Durability = durability
        self.floor: Callable[[str, int], int] = _no_floor
        self.report: Callable[[str], None] = _no_report
        self._directory = directory
        self._presence = presence
        self._topics_directory = files.open_dir(TOPICS, directory)
        self._syncer = Syncer(interval_s, lambda text: self.report(text))
        self._rules = Rules(durability, limits, self._syncer, lambda *where: self.floor(*where), lambda text: self.report(text))
        self._mutex: Any = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._closed = False
        _open_logs.add(self)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        durability: Durability = "interval",
        interval_s: float = 0.010,
        create: bool = True,
        limits: Limits | None = None,
        any_filesystem: bool = False,
        alone: bool = False,
    ) -> Log:
        """Open a root, making it when `create` is set.

        durability: what an append waits for; the same in every process of one cluster. any_filesystem: allow network file systems.
        alone: InUse when somebody else has it open; until this one is closed, nobody else opens it (they get InUse after 2 s).
        Raises BadRoot for a symbolic link, another owner, a world-writable directory, a network file system, or no log there and not
        `create`; UnsupportedVersion when a later version made it.

        Two hooks may be set before topics are used: `floor(topic, partition)` is the lowest next offset that recovery may hand out,
        `report(text)` is told of recoveries that cut or lost something and of failed background syncs.
        """
        path = Path(path)
        directory, presence = root.open_directory(path, create), -1
        try:
            root.check(path, directory, any_filesystem)
            root.ensure_marker(path, directory, create)
            presence = root.attend(path, directory, alone)
            return cls(path, directory, presence, durability, interval_s, limits or Limits())
        except BaseException:
            files.close_all((presence, directory))
            raise

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        self._alive()
        return sorted(name for name in files.names(self._topics_directory) if not name.startswith("."))

    def topic(self, name: str, deadline: float | None = None) -> Topic:
        """NoSuchTopic when there is none; LockTimeout when other threads or processes were at it until `deadline` (monotonic seconds)."""
        found = self._topics.get(name)
        if found is not None and not found.is_deleted:
            return found
        with self._exclusive(deadline) as until:
            found = self._topics.get(name)
            if found is not None and found.is_deleted:
                self._topics.pop(name).close(until)
                found = None
            if found is None:
                _check_name(name)
                found = self._open_topic(name, until)
                if self._closed:  # by a `close` that did not wait for this thread
                    found.close(until)
                    self._alive()
                self._topics[name] = found
            return found

    def _open_topic(self, name: str, until: float) -> Topic:
        with self._root_lock(until):
            found = Topic(self._topics_directory, self.path, name, self._rules)
            if found.is_deleted:  # a deletion died on its way; nobody can append any more
                found.close(until)
                self._bury(name)
                raise NoSuchTopic(f"there is no topic {name}")
            return found

    def create_topic(self, name: str, partitions: int = DEFAULT_PARTITIONS, deadline: float | None = None) -> Topic:
        """The topic of that name; made with `partitions` unless it exists (then its own count holds).

        TopicExists: differs in case only. LockTimeout as `topic`.
        """
        with suppress(NoSuchTopic):
            return self.topic(name, deadline)
        with self._exclusive(deadline) as until, self._root_lock(until):
            existing = self.topics()
            if name not in existing:
                twin = next((other for other in existing if other.casefold() == name.casefold()), None)
                if twin is not None:
                    raise TopicExists(f"topic {name} differs from the existing {twin} in case only; use that name or another")
                self._sweep()
                files.sync_dir(self._directory)  # the folder of topics: whoever made it may have died before it was on the medium
                topic.create(self._topics_directory, name, partitions, self.durability)
        return self.topic(name, deadline)

    def keep(self, name: str, seconds: float, deadline: float | None = None) -> None:
        """Note for how long a topic keeps, infinity for ever; the same in every process. NoSuchTopic, LockTimeout as `topic`."""
        if self.topic(name, deadline).retention_s == seconds:
            return
        with self._exclusive(deadline) as until, self._root_lock(until):
            directory = files.open_dir(name, self._topics_directory)
            try:
                topic.write_retention(directory, seconds)
            finally:
                files.close(directory)

    @contextmanager
    def visit(self, name: str) -> Iterator[Topic]:
        """A topic for a short while: the open one, else one that is closed again. NoSuchTopic, LockTimeout as `topic`."""
        found = self._topics.get(name)
        if found is not None and not found.is_deleted:
            yield found
            return
        with self._exclusive(None) as until:
            found = self._open_topic(name, until)
        try:
            yield found
            if self.durability != "none":
                self._flush(found.writable(), time.monotonic() + PATIENCE_S)
        finally:
            found.close(time.monotonic() + PATIENCE_S)

    def delete_topic(self, name: str, deadline: float | None = None) -> None:
        """Remove a topic with all its records. Handles of it, in any process, raise NoSuchTopic from now on. LockTimeout as `topic`."""
        found = self.topic(name, deadline)
        with self._exclusive(deadline) as until, self._root_lock(until):
            found.mark_deleted(until)
            self._topics.pop(name, None)
            found.close(until)
            self._bury(name)

    @contextmanager
    def _exclusive(self, deadline: float | None) -> Iterator[float]:
        """This process's lock on the set of topics; yields the deadline that holds."""
        until = time.monotonic() + PATIENCE_S if deadline is None else deadline
        lock, held = self._mutex, list[bool]()
        try:
            if not mutex.acquire(lock, until, held):
                raise LockTimeout(f"the topics of {self.path} are being changed by another thread; nothing was changed")
            self._alive()
            yield until
        finally:
            if True in held:
                lock.release()

    def _bury(self, name: str) -> None:
        """Take the topic out of sight at once, then remove it. The caller holds the root lock."""
        files.rename(name, files.temporary_name(".deleted"), self._topics_directory)
        files.sync_dir(self._topics_directory)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what creations and deletions left that died on their way. The caller holds the root lock, so none is running."""
        for leftover in files.names(self._topics_directory):
            if leftover.startswith(".") and leftover.endswith(".tmp"):
                files.remove_tree(leftover, self._topics_directory)

    def close(self, deadline: float | None = None) -> None:
        """Sync what is not durable yet (`interval`), end the syncer, close everything. Idempotent.

        deadline: monotonic seconds. What cannot be synced by then, because a stopped process holds a lock, is reported: the kernel or the
        next sync of any process writes it. What a thread still uses stays open. SyncFailed, after all is closed, for a sync that fails now.
        """
        if self._closed:
            return
        lock, held = self._mutex, list[bool]()
        try:
            mutex.acquire(lock, deadline, held)  # in vain: whoever opens a topic now finds the log closed
            self._closed = True
            _open_logs.discard(self)
            topics = list(self._topics.values())
            unsynced = [one for found in topics for one in found.writable()] if self.durability != "none" else []
            self._syncer.close(deadline)
            try:
                self._flush(unsynced, deadline)
            finally:
                for found in topics:
                    found.close(deadline)
                self._end(Gone(ClosedHandle, f"the log {self.path} is closed"))
        finally:
            if True in held:
                lock.release()

    def _flush(self, partitions: list[PartitionLog], deadline: float | None) -> None:
        first: SyncFailed | None = None
        for partition in partitions:
            try:
                partition.sync(deadline)
            except SyncLater as error:
                self.report(f"not synced at the close: {error}")
            except SyncFailed as error:
                first = first or error
        if first is not None:
            raise first

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> None:
        if self._closed:
            self._mutex.acquire  # noqa: B018  a dead handle raises here
            raise ClosedHandle(f"the log {self.path} is being closed")

    def _root_lock(self, until: float) -> Any:
        return _RootLock(self._directory, until)

    def _forget(self) -> None:
        """In a forked child. Closing the copies leaves the parent's locks alone; LOCK_UN would drop them."""
        gone = Gone(StaleHandle, f"the process has forked since the log {self.path} was opened; open it again in the child")
        self._closed = True
        for found in self._topics.values():
            found.forget(gone)
        self._end(gone)
        _open_logs.discard(self)  # its descriptors may be somebody else's at a further fork

    def _end(self, gone: Gone) -> None:
        files.close_all((self._topics_directory, self._directory, self._presence))
        self._topics = {}
        self._mutex = gone


# The handles that a fork makes stale. Module-wide because the hook of the interpreter is, and cannot be taken back.
_open_logs: weakref.WeakSet[Log] = weakref.WeakSet()


def _forget_all() -> None:
    for log in list(_open_logs):
        log._forget()
    _open_logs.clear()


files.after_fork_in_child(_forget_all)


class _RootLock:
    """Exclusive flock on the marker, on a descriptor of its own, so that threads exclude each other too."""

    def __init__(self, directory: int, until: float) -> None:
        self._fd = files.open_read(MARKER, directory)
        self._until = until

    def __enter__(self) -> None:
        try:
            files.lock_until(self._fd, files.LOCK_EX, self._until, "the lock on the set of topics (file MQSDK)")
        except BaseException:
            files.close(self._fd)
            raise

    def __exit__(self, *exc: object) -> None:
        files.flock(self._fd, files.LOCK_UN)  # explicitly: a child forked meanwhile holds a copy that would keep the lock
        files.close(self._fd)


def _check_name(name: str) -> None:
    """A last line of defence; names were checked by the caller. ValueError for what is no plain file name."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode()) > 255:
        raise ValueError("a topic name must be a plain file name that does not begin with a dot")


def _no_floor(topic_name: str, partition: int) -> int:
    return 0


def _no_report(text: str) -> None:
    """Nobody listens."""
