"""Looking at the log and arranging it. Every call works from the files alone, so it shows all processes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mqsdk.spi import (
    Admin,
    ConfigError,
    GroupInfo,
    Member,
    PartitionProgress,
    Record,
    SavedProgress,
    Start,
    TopicInfo,
    UnsafeBackend,
)
from mqsdk_log.engine import groups as engine_groups
from mqsdk_log.engine.cursors import Cursor
from mqsdk_log.engine.errors import CorruptRange, NoSuchTopic, OutOfRange
from mqsdk_log.engine.groups import Group, GroupBusy
from mqsdk_log.engine.log import DEFAULT_PARTITIONS, Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.topic import Topic
from mqsdk_log.errors import KIND, translated
from mqsdk_log.moving import end_of_now
from mqsdk_log.names import check_name
from mqsdk_log.records import LogRecord

READ_BYTES = 64 << 20


class LogAdmin(Admin):
    """Thread-safe: nothing is kept between two calls."""

    def __init__(self, cluster: str, log: Log) -> None:
        self._cluster = cluster
        self._log = log

    # --- topics -------------------------------------------------------------------------------------------------------------------------

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        check_name("topic", topic)
        with translated(self._cluster):
            try:
                found = self._log.create_topic(topic, DEFAULT_PARTITIONS if partitions is None else partitions)
            except ValueError as error:
                raise ConfigError(f"topic `{topic}` cannot be created: {error}", where=f"cluster {self._cluster}") from None
        if partitions is not None and found.partition_count != partitions:
            raise UnsafeBackend(
                f"topic `{topic}` has {found.partition_count} partitions, not {partitions}: keys would move",
                finding="partitions",
                cluster=self._cluster,
                backend=KIND,
                fix=f"declare partitions: {found.partition_count}, or use another topic",
            )
        return found.partition_count

    def keep(self, topic: str, seconds: float) -> None:
        with translated(self._cluster):
            self._log.keep(topic, seconds)

    def trim(self, topic: str, positions: dict[int, int]) -> None:
        """Whole segments below the positions; the newest one too where all of it is, for which another one is begun."""
        with translated(self._cluster):
            found = self._log.topic(topic)
            for number, position in positions.items():
                partition = found.partition(number)
                if position >= partition.end():
                    partition.seal(0.0)
                partition.remove_before(position)

    def partitions(self, topic: str) -> int | None:
        found = self._find(topic)
        return None if found is None else found.partition_count

    def topics(self) -> list[TopicInfo]:
        with translated(self._cluster):
            infos = [self._topic_info(name) for name in self._log.topics()]
        return [info for info in infos if info is not None]

    def delete_topic(self, topic: str) -> None:
        with translated(self._cluster):
            groups = [self._group(name) for name in engine_groups.of_topic(self._log.path, topic)]
            for group in groups:  # all or nothing: look at every group before the first one goes
                if alive := group.living(topic):
                    raise GroupBusy(f"group `{group.name}` has {len(alive)} member(s) in topic `{topic}`", alive)
            for group in groups:
                group.delete(topic)
            self._log.delete_topic(topic)

    def _topic_info(self, name: str) -> TopicInfo | None:
        topic = self._find(name)
        if topic is None:
            return None  # deleted since it was listed
        parts = [topic.partition(number) for number in range(topic.partition_count)]
        messages = sum(part.end() - part.start() for part in parts)
        size = sum(part.size_bytes() for part in parts)
        return TopicInfo(name, topic.partition_count, tuple(engine_groups.of_topic(self._log.path, name)), messages, size)

    # --- groups -------------------------------------------------------------------------------------------------------------------------

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        check_name("group", group)
        with translated(self._cluster):
            found = self._group(group)
            if found.knows(topic):
                return
            log = self._log.topic(topic)
            found.ensure(topic, [_begin(log.partition(number), start) for number in range(log.partition_count)])

    def groups(self, topic: str) -> list[GroupInfo]:
        with translated(self._cluster):
            return [self._group_info(topic, name) for name in engine_groups.of_topic(self._log.path, topic)]

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        """messages is `end - watermark`: positions settled above the watermark are in the sparse blob, which only layer 2 can read."""
        with translated(self._cluster):
            found = self._group(group)
            if not found.knows(topic):
                return []
            log = self._log.topic(topic)
            cursors = found.progress(topic)
            has_delays = log.has_delays
            return [_progress(log.partition(number), number, cursor, has_delays) for number, cursor in enumerate(cursors)]

    def reset(self, topic: str, group: str, positions: dict[int, int]) -> None:
        with translated(self._cluster):
            self._group(group).reset(topic, self._clamped(topic, positions))

    def saved(self, topic: str, group: str) -> list[SavedProgress]:
        with translated(self._cluster):
            found = self._group(group)
            cursors = found.progress(topic) if found.knows(topic) else []
            return [SavedProgress(number, cursor.epoch, cursor.sparse) for number, cursor in enumerate(cursors)]

    def amend(self, topic: str, group: str, saved: SavedProgress, sparse: bytes) -> bool:
        with translated(self._cluster):
            return self._group(group).amend(topic, saved.partition, saved.epoch, saved.sparse, sparse)

    def delete_group(self, topic: str, group: str) -> None:
        with translated(self._cluster):
            found = self._group(group)
            if found.knows(topic):
                found.delete(topic)

    def _group_info(self, topic: str, name: str) -> GroupInfo:
        group = self._group(name)
        assigned = group.assignment()
        members = tuple(
            Member(member.id, member.host, member.pid, tuple(sorted(assigned.of(member.id, topic)))) for member in group.living(topic)
        )
        return GroupInfo(topic, name, members)

    def _clamped(self, topic: str, positions: Mapping[int, int]) -> dict[int, int]:
        log = self._log.topic(topic)
        parts = {number: log.partition(number) for number in positions}
        return {number: max(part.start(), min(positions[number], part.end())) for number, part in parts.items()}

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        """Raises Corrupt where the first record asked for is damaged; damage later on ends the list before it."""
        with translated(self._cluster):
            log = self._log.topic(topic).partition(partition)
            return list(_read(log, max(position, log.start()), limit))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        with translated(self._cluster):
            log = self._log.topic(topic).partition(partition)
            end = end_of_now(log)
            return log.start(), end

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        with translated(self._cluster):
            return self._log.topic(topic).partition(partition).locate(time_ms)

    # --- inside -------------------------------------------------------------------------------------------------------------------------

    def _find(self, topic: str) -> Topic | None:
        with translated(self._cluster):
            try:
                return self._log.topic(topic)
            except NoSuchTopic:
                return None

    def _group(self, name: str) -> Group:
        return Group(self._log.path, check_name("group", name))


def _read(log: PartitionLog, position: int, limit: int) -> list[LogRecord]:
    reader = log.reader(position, LogRecord)
    found: list[LogRecord] = []
    try:
        while len(found) < limit:
            records = reader.read(limit - len(found), READ_BYTES)
            if not records:
                break
            found += records
    except OutOfRange as error:
        if not found:
            return _read(log, error.first, limit) if error.first > position else []
    except CorruptRange:
        if not found:
            raise
    finally:
        reader.close()
    return found


def _begin(log: PartitionLog, start: Start) -> int:
    if isinstance(start, datetime):
        return log.locate(int(start.timestamp() * 1000))
    return end_of_now(log) if start == "latest" else log.start()


def _progress(log: PartitionLog, number: int, cursor: Cursor, has_delays: bool) -> PartitionProgress:
    end, first = end_of_now(log), log.start()
    watermark = min(cursor.watermark, end)
    left = end - max(watermark, first)
    oldest_ms = _oldest_ms(log, max(watermark, first)) if left else None
    delayed = log.delays.waiting() if has_delays and log.delays is not None else 0
    return PartitionProgress(number, watermark, end, left, oldest_ms, first, cursor.epoch, delayed)


def _oldest_ms(log: PartitionLog, position: int) -> int | None:
    try:
        found = _read(log, position, 1)
    except CorruptRange:
        return None
    return found[0].placed_ms if found else None
