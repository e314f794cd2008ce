"""Looking at and arranging a SimLog. What the capabilities do not claim is refused."""

from __future__ import annotations

from mqsdk.spi import (
    Admin,
    BackendError,
    Capabilities,
    GroupInfo,
    Member,
    NotSupported,
    Partition,
    PartitionProgress,
    Record,
    SavedProgress,
    Start,
    StateError,
    TopicInfo,
)
from mqsdk.testing.simgroup import Cursor, Group, Log
from mqsdk.testing.simstore import SimLog


class SimAdmin(Admin):
    def __init__(self, store: SimLog, capabilities: Capabilities) -> None:
        self._store = store
        self._can = capabilities

    def trim(self, topic: str, positions: dict[int, int]) -> None:
        for number, position in positions.items():
            self._store.trim(topic, number, position)

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        return self._store.create_topic(topic, partitions)

    def keep(self, topic: str, seconds: float) -> None:
        """Accepted; nothing is ever removed, which is the latest that any backend may."""
        if not self._can.retention:
            raise NotSupported("retention")
        if topic not in self._store.topics:
            raise BackendError(f"topic {topic} does not exist", fix="create it with ensure_topic")

    def partitions(self, topic: str) -> int | None:
        return self._store.topics.get(topic)

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        self._store.create_group(topic, group, start, history=self._can.history, by_time=self._can.by_time)

    def topics(self) -> list[TopicInfo]:
        with self._store.lock:
            return [self._topic_info(topic) for topic in sorted(self._store.topics)]

    def groups(self, topic: str) -> list[GroupInfo]:
        with self._store.lock:
            return [GroupInfo(topic, name, _members(group)) for name, group in sorted(self._store.groups.get(topic, {}).items())]

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        with self._store.lock:
            self._store.release_due()
            found = self._store.group(topic, group)
            return [] if found is None else [self._progress(cursor) for cursor in found.cursors]

    def reset(self, topic: str, group: str, positions: dict[int, int]) -> None:
        if not self._can.replay:
            raise NotSupported("replay")
        with self._store.lock:
            found = self._found(topic, group)
            _refuse_members(found)
            for number, position in positions.items():
                _move(found.cursors[number], position)

    def saved(self, topic: str, group: str) -> list[SavedProgress]:
        self._check_amend()
        with self._store.lock:
            found = self._store.group(topic, group)
            cursors = [] if found is None else found.cursors
            return [SavedProgress(cursor.partition.number, cursor.epoch, cursor.sparse) for cursor in cursors]

    def amend(self, topic: str, group: str, saved: SavedProgress, sparse: bytes) -> bool:
        self._check_amend()
        with self._store.lock:
            found = self._found(topic, group)
            _refuse_members(found)
            cursor = found.cursors[saved.partition]
            is_same = (cursor.epoch, cursor.sparse) == (saved.epoch, saved.sparse)
            if is_same:
                cursor.sparse = sparse
            return is_same

    def _check_amend(self) -> None:
        if not self._can.amend:
            raise NotSupported("amend")

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        with self._store.lock:
            return self._log(topic, partition).read(position, limit)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        with self._store.lock:
            log = self._log(topic, partition)
            return log.base, log.end

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        if not self._can.by_time:
            raise NotSupported("by_time")
        with self._store.lock:
            return self._log(topic, partition).locate(time_ms)

    def delete_topic(self, topic: str) -> None:
        with self._store.lock:
            for group in self._store.groups.get(topic, {}).values():
                _refuse_members(group)
            for number in range(self._store.topics.pop(topic, 0)):
                del self._store.logs[Partition(topic, number)]
            self._store.delayed.drop(topic)
            self._store.groups.pop(topic, None)

    def delete_group(self, topic: str, group: str) -> None:
        with self._store.lock:
            found = self._store.group(topic, group)
            if found is not None:
                _refuse_members(found)
                del self._store.groups[topic][group]

    def _log(self, topic: str, partition: int) -> Log:
        if not self._can.read_by_position:
            raise NotSupported("read_by_position")
        self._store.release_due()
        log = self._store.logs.get(Partition(topic, partition))
        if log is None:
            raise BackendError(f"topic {topic} has no partition {partition}", fix="`topics` lists what exists")
        return log

    def _found(self, topic: str, group: str) -> Group:
        found = self._store.group(topic, group)
        if found is None:
            raise BackendError(f"topic {topic} has no group {group}", fix="`groups` lists what exists")
        return found

    def _progress(self, cursor: Cursor) -> PartitionProgress:
        return PartitionProgress(
            partition=cursor.partition.number,
            watermark=cursor.watermark,
            end=cursor.log.end,
            messages=cursor.unsettled,
            oldest_ms=cursor.oldest_ms(),
            start=cursor.log.base,
            epoch=cursor.epoch,
            delayed=self._store.delayed.count(cursor.partition),
        )

    def _topic_info(self, topic: str) -> TopicInfo:
        count = self._store.topics[topic]
        logs = [self._store.logs[Partition(topic, number)] for number in range(count)]
        stored = sum(log.sums[-1] - log.sums[0] for log in logs)
        return TopicInfo(topic, count, tuple(sorted(self._store.groups[topic])), sum(len(log.records) for log in logs), stored)


def _members(group: Group) -> tuple[Member, ...]:
    return tuple(
        Member(member.id, partitions=tuple(cursor.partition.number for cursor in group.cursors if cursor.owner is member))
        for member in group.members
    )


def _refuse_members(group: Group) -> None:
    if group.members:
        raise StateError(
            f"group {group.name} of topic {group.topic} has {len(group.members)} member(s)",
            fix="stop its consumers first",
            state="active",
        )


def _move(cursor: Cursor, position: int) -> None:
    cursor.watermark = cursor.high = max(0, min(position, cursor.log.end))
    cursor.sparse = b""
    cursor.done = set()
    cursor.clean = True
    cursor.epoch += 1  # results of a consumer from before the move must change nothing
