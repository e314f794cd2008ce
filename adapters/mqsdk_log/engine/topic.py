"""One topic in one process: its settings file, its state page, its partitions and its sleepers."""

from __future__ import annotations

import json
import threading
import uuid as uuids
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import files, state
from .bands import Bands
from .delays import LOCK as DELAY_LOCK
from .errors import UNEXPECTED, BadRoot, ClosedHandle, Gone, NoSuchTopic, UnsupportedVersion
from .partition import PartitionLog
from .shared import Durability, Limits, Shared
from .wake import DIRECTORY as WAKE
from .wake import Waiter, Wakers

SETTINGS = "topic.json"
VERSION = 1
MAX_PARTITIONS = 4096


def create(topics: int, name: str, partitions: int, durability: Durability) -> None:
    """Make the directory of a topic under a temporary name, then rename it. The caller holds the root lock."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise ValueError(f"partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")
    temporary = files.temporary_name(".new")
    try:
        _fill(topics, temporary, partitions, durability)
        files.rename(temporary, name, topics)
    except OSError:
        with suppress(OSError):  # who tries again on a full disk must not fill it with what he began
            files.remove_tree(temporary, topics)
        raise
    files.sync_dir(topics)


def _fill(topics: int, temporary: str, partitions: int, durability: Durability) -> None:
    files.make_dir(temporary, topics)
    directory = files.open_dir(temporary, topics)
    try:
        for child in (WAKE, *map(str, range(partitions))):
            files.make_dir(child, directory)
        settings = {"version": VERSION, "partitions": partitions, "uuid": uuids.uuid4().hex, "durability": durability, "generation": 1}
        files.replace(SETTINGS, json.dumps(settings).encode(), directory)
        state.ensure(directory, partitions).close()
        files.sync_dir(directory)
    finally:
        files.close(directory)


def read_settings(directory: int, name: str) -> tuple[bytes, int]:
    """(uuid, number of partitions). BadRoot when the file is damaged, UnsupportedVersion when it is newer."""
    try:
        found = json.loads(files.read_all(SETTINGS, directory))
        version = found["version"]
        if version != VERSION:
            raise UnsupportedVersion(f"topic {name}", version, VERSION)
        uuid, partitions = bytes.fromhex(found["uuid"]), int(found["partitions"])
    except UNEXPECTED:
        raise BadRoot(f"{SETTINGS} of topic {name} is damaged; restore it from a copy") from None
    if len(uuid) != 16 or not 1 <= partitions <= MAX_PARTITIONS:
        raise BadRoot(f"{SETTINGS} of topic {name} is damaged; restore it from a copy")
    return uuid, partitions


def read_retention(directory: int) -> float | None:
    """Seconds for which the topic was told to keep, None when it was not told. A damaged file says nothing."""
    try:
        found = json.loads(files.read_all(SETTINGS, directory)).get("retention_s")
        return float(found) if isinstance(found, int | float | str) and found is not True else None
    except (FileNotFoundError, *UNEXPECTED):
        return None


def write_retention(directory: int, seconds: float) -> None:
    """The caller holds the root lock."""
    settings = json.loads(files.read_all(SETTINGS, directory))
    stored = str(seconds) if seconds == float("inf") else seconds  # JSON has no infinity
    if settings.get("retention_s") != stored:
        files.replace(SETTINGS, json.dumps({**settings, "retention_s": stored}).encode(), directory)


class Topic:
    """A topic of an open log. Any thread. Partitions are opened on first use."""

    def __init__(self, topics: int, root: Path, name: str, rules: Rules, of: str = "") -> None:
        """of: the topic whose delayed records it is to keep, as one of its bands."""
        self.name = f"{of} delay {name}" if of else name
        self.path = root / "topics" / name
        self.durability: Durability = rules.durability
        self.limits = rules.limits
        try:
            self._directory: Any = files.open_dir(name, topics)
        except FileNotFoundError:
            raise NoSuchTopic(f"there is no topic {name}") from None
        try:
            self.uuid, self.partition_count = read_settings(self._directory, name)
            files.make_dir(WAKE, self._directory)
            self._page = state.ensure(self._directory, self.partition_count)
        except BaseException:
            files.close(self._directory)
            raise
        self._wakers = Wakers(self._directory, self._page)
        self._rules = rules
        self.bands = None if of else Bands(self._directory, self._create_band, self._open_band)
        self._shared = Shared(
            self.name, self.uuid, self._directory, self._page, rules.durability, rules.limits, rules.syncer, self._wakers,
            lambda number: rules.floor(name, number), rules.report, self.bands, lambda: self._sync_name(topics),
        )  # fmt: skip
        self._mutex: Any = threading.Lock()
        self._named = False
        self._partitions: dict[int, PartitionLog] = {}
        self._waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()

    @property
    def is_deleted(self) -> bool:
        return self._page.is_deleted

    def partition(self, number: int) -> PartitionLog:
        """Partition 0 to partition_count - 1; the same object for every caller. IndexError outside."""
        found = self._partitions.get(number)
        if found is not None:
            return found
        if not 0 <= number < self.partition_count:
            raise IndexError(f"topic {self.name} has partitions 0 to {self.partition_count - 1}, not {number}")
        with self._mutex:
            if number not in self._partitions:
                self._partitions[number] = PartitionLog(self._shared, number)
            return self._partitions[number]

    def _sync_name(self, topics: int) -> None:
        if not self._named:
            files.sync_dir(topics)
            self._named = True

    def _create_band(self, directory: int, name: str) -> None:
        create(directory, name, self.partition_count, self.durability)

    def _open_band(self, directory: int, name: str) -> Topic:
        rules = self._rules
        floor = partial(self._band_floor, int(name))
        return Topic(directory, self.path, name, Rules(rules.durability, rules.limits, rules.syncer, floor, rules.report), of=self.name)

    def _band_floor(self, band: int, _name: str, number: int) -> int:
        delays = self.partition(number).delays
        return 0 if delays is None else delays.floor(band)

    @property
    def retention_s(self) -> float | None:
        """What `Log.keep` told, None when it was not told."""
        return read_retention(self._directory)

    @property
    def has_delays(self) -> bool:
        """Whether anything of it was ever delayed."""
        return self.bands is not None and self.bands.directory() >= 0

    def free_bytes(self) -> int:
        return files.free_bytes(self._directory)

    def waiter(self) -> Waiter:
        """A place to sleep until something is appended to this topic; one per consumer, closed by its owner."""
        with self._mutex:
            waiter = Waiter(self._directory, self._page)
            self._waiters.add(waiter)
            return waiter

    def wake_all(self) -> None:
        """Wake every sleeping consumer of this topic, in any process."""
        self._wakers.wake_all()

    def mark_deleted(self, deadline: float | None = None) -> None:
        """Under every partition's lock in turn: no append that was answered comes after it.

        LockTimeout when a writer does not let go by `deadline` (monotonic seconds). All are asked before anything is changed.
        """
        self._lock_each(deadline, DELAY_LOCK, lambda number: None)
        self._lock_each(deadline, "lock", lambda number: None)
        self._page.mark_deleted()
        self._lock_each(deadline, DELAY_LOCK, lambda number: None)
        self._lock_each(deadline, "lock", self._invalidate)
        self._wakers.wake_all()

    def _lock_each(self, deadline: float | None, lock: str, action: Callable[[int], None]) -> None:
        for number in range(self.partition_count):
            fd = files.open_create(f"{number}/{lock}", self._directory)
            try:
                with files.locked(fd, deadline=deadline, what=f"{self.name}/{number}"):
                    action(number)
            finally:
                files.close(fd)

    def _invalidate(self, number: int) -> None:
        self._page.slot(number)[state.TAG] = 0

    def writable(self) -> list[PartitionLog]:
        """The opened partitions but those that are read-only since a sync failed: that has been told, and nothing can be done."""
        mine = [partition for partition in list(self._partitions.values()) if not partition.is_read_only]
        return mine + [partition for band in self._opened_bands() for partition in band.writable()]

    def _opened_bands(self) -> list[Topic]:
        return [] if self.bands is None else self.bands.opened()

    def close(self, deadline: float | None = None) -> None:
        """Idempotent for its partitions. What a thread still uses at `deadline` stays open."""
        for partition in self._partitions.values():
            partition.close(deadline)
        for band in self._opened_bands():
            band.close(deadline)
        for waiter in list(self._waiters):
            waiter.close()
        self._end(Gone(ClosedHandle, f"topic {self.name}: the log is closed"))
        self._page.close()

    def forget(self, gone: Gone) -> None:
        """In a forked child: close the copies of all descriptors, fail from now on."""
        for partition in self._partitions.values():
            partition.forget(gone)
        for band in self._opened_bands():
            band.forget(gone)
        for waiter in list(self._waiters):
            files.close_all(waiter.fds())
            waiter.forget(gone)
        self._end(gone)

    def _end(self, gone: Gone) -> None:
        files.close_all((*self._wakers.fds(), self._directory))
        self._wakers.forget(gone)
        if self.bands is not None:
            self.bands.end(gone)
        self._directory = self._mutex = gone


class Rules:
    """What a log hands to each of its topics."""

    def __init__(
        self,
        durability: Durability,
        limits: Limits,
        syncer: Any,
        floor: Callable[[str, int], int],
        report: Callable[[str], None],
    ) -> None:
        self.durability = durability
        self.limits = limits
        self.syncer = syncer
        self.floor = floor
        self.report = report
