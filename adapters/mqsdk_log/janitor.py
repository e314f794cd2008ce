"""Removes what the log need not keep any more: one thread per open cluster, at work in one process at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mqsdk_log.engine import groups, retention
from mqsdk_log.engine.cursors import CursorDamaged, NoSuchGroup
from mqsdk_log.engine.errors import ClosedHandle, LogError, NoSuchTopic, StaleHandle, reason
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.mutex import left_s
from mqsdk_log.engine.retention import FOREVER, Keep
from mqsdk_log.engine.rolelock import RoleLock
from mqsdk_log.engine.setbacks import Setbacks
from mqsdk_log.engine.topic import Topic

EVERY_S = 10.0
TERM_S = 30.0  # of a janitor that shows no life, because it was stopped: then another one takes over
LOCK, STAMP = "janitor.lock", "janitor.swept"
DEAD_LETTERS, RETRIES = ".dlq", ".retry"


class Janitor:
    """`start` and `close` by one thread each. keep: for topics that were not told how long they keep."""

    def __init__(self, log: Log, keep: Keep, report: Callable[[str], None]) -> None:
        self._log = log
        self._keep = keep
        self._report = report
        self._lock = RoleLock(log.path / LOCK, TERM_S)
        self._setbacks = Setbacks()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqsdk-log-janitor", daemon=True)

    def start(self) -> None:
        """Without its thread nothing is removed; that is told, and no reason not to open a log."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._report(f"nothing is removed by this process, because its thread cannot be started ({error})")

    def close(self, deadline: float) -> None:
        """Idempotent. What runs at `deadline` is left alone; it ends at the next topic."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(max(left_s(deadline), 0.0))

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self.round()
            except (ClosedHandle, StaleHandle):
                return
            except (LogError, OSError) as error:
                self._tell("janitor", "nothing can be removed", error)

    def round(self) -> None:
        """Look at every topic, unless another process does or has just done it."""
        stamp = self._log.path / STAMP
        if _age_s(stamp) < EVERY_S * 0.9 or not self._lock.try_acquire(time.monotonic()):
            return
        try:
            for name in self._log.topics():
                if self._over.is_set() or not self._lock.is_current():  # stopped in between, and replaced
                    return
                self._look_after(name)
            stamp.touch(mode=0o600)
        finally:
            self._lock.release()

    def _look_after(self, name: str) -> None:
        try:
            if _is_worth_it(self._log.path / "topics" / name):
                with self._log.visit(name) as topic:
                    self.sweep(topic)
        except NoSuchTopic:
            return
        except (LogError, OSError) as error:
            if isinstance(error, ClosedHandle | StaleHandle):
                raise
            self._tell(name, f"topic {name} cannot be looked after", error)

    def sweep(self, topic: Topic) -> None:
        """Note what delayed messages have been moved, then remove what is over."""
        for number in range(topic.partition_count):
            delays = topic.partition(number).delays
            if delays is not None and topic.has_delays:
                delays.checkpoint(time.monotonic() + 1.0)
        settled = self._settled(topic)
        short = not topic.name.endswith(DEAD_LETTERS) and topic.free_bytes() < 2 * topic.limits.min_free_bytes
        for removed in retention.sweep(topic, self._policy(topic), settled, int(time.time() * 1000), short_of_space=short):
            if removed.unsettled:
                self._report(
                    f"{topic.name}/{removed.partition}: the topic is over its limit of bytes: "
                    f"{removed.unsettled} messages are gone that a group had not settled"
                )

    def _policy(self, topic: Topic) -> Keep:
        """Dead letters and delays never go for their age or size, what is to be tried again when it was."""
        if topic.name.endswith(DEAD_LETTERS):
            return Keep()
        if topic.name.endswith(RETRIES):
            return Keep(age_s=0.0)
        told = topic.retention_s
        return Keep(self._keep.age_s if told is None else told, self._keep.bytes)

    def _settled(self, topic: Topic) -> dict[int, int] | None:
        """The lowest position that any group needs, by partition; 0 where a group cannot say. None: there is no group."""
        names = groups.of_topic(self._log.path, topic.name)
        if not names and topic.name.endswith((DEAD_LETTERS, RETRIES)):
            return dict.fromkeys(range(topic.partition_count), 0)
        needed: dict[int, int] = {}
        for name in names:
            try:
                marks = [cursor.watermark for cursor in Group(self._log.path, name).progress(topic.name)]
            except NoSuchGroup:
                continue  # deleted since it was listed
            except (CursorDamaged, OSError):
                marks = [0] * topic.partition_count
            for number, mark in enumerate(marks):
                needed[number] = min(needed.get(number, mark), mark)
        return needed or None

    def _tell(self, what: str, text: str, error: Exception) -> None:
        if self._setbacks.add(what, time.monotonic()):
            self._report(f"{text} ({reason(error)}); tried again until it succeeds")


def _age_s(path: Path) -> float:
    """Seconds since it was touched; for ever where it is missing, or where the clock was set back."""
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return FOREVER
    return age_s if age_s >= 0 else FOREVER


def _is_worth_it(path: Path) -> bool:
    """Whether there is anything to remove, to seal or to note, seen from the names and sizes of files: opening a topic costs more."""
    if (path / "delay").exists():
        return True
    with os.scandir(path) as entries:
        partitions = [entry.path for entry in entries if entry.name.isdecimal()]
    for partition in partitions:
        with os.scandir(partition) as entries:
            segments = [entry for entry in entries if entry.name.endswith(".log")]
        if len(segments) > 1 or any(entry.stat().st_size > 64 for entry in segments):
            return True
    return False
