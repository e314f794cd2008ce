"""Looking at the cluster and arranging it. Nothing is kept between two calls; every process sees the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mqsdk.spi import (
    Admin,
    BackendError,
    ConfigError,
    GroupInfo,
    Member,
    Partition,
    PartitionProgress,
    Record,
    SavedProgress,
    Start,
    StateError,
    TopicInfo,
    UnsafeBackend,
)
from mqsdk_redis import names
from mqsdk_redis.client import Client
from mqsdk_redis.errors import KIND
from mqsdk_redis.ids import id_before, id_of, position_of
from mqsdk_redis.instance import End
from mqsdk_redis.leases import CONSUMER
from mqsdk_redis.names import check_name
from mqsdk_redis.records import RedisRecord
from mqsdk_redis.wire import Command

DEFAULT_PARTITIONS = 8
MAX_PARTITIONS = 10_000
READ_CHUNK = 1000


class RedisAdmin(Admin):
    """Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._scripts = client.scripts

    # --- topics -------------------------------------------------------------------------------------------------------------------------

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        check_name("topic", topic)
        wanted = DEFAULT_PARTITIONS if partitions is None else partitions
        if not 0 < wanted <= MAX_PARTITIONS:
            raise ConfigError(
                f"topic `{topic}` cannot be created: {wanted} is no number of partitions", where=f"cluster {self._client.cluster}"
            )
        _, found = self._client.call([("HSETNX", names.TOPICS, topic, wanted), ("HGET", names.TOPICS, topic)])
        count = int(found)
        if partitions is not None and count != partitions:
            raise UnsafeBackend(
                f"topic `{topic}` has {count} partitions, not {partitions}: keys would move",
                finding="partitions",
                cluster=self._client.cluster,
                backend=KIND,
                fix=f"declare partitions: {count}, or use another topic",
            )
        self._make_streams(topic, count)
        return count

    def partitions(self, topic: str) -> int | None:
        (found,) = self._client.call([("HGET", names.TOPICS, topic)])
        return None if found is None else int(found)

    def topics(self) -> list[TopicInfo]:
        (found,) = self._client.call([("HGETALL", names.TOPICS)])
        counts = sorted((name.decode(), int(count)) for name, count in zip(found[::2], found[1::2], strict=True))
        return [self._topic_info(name, count) for name, count in counts]

    def delete_topic(self, topic: str) -> None:
        count = self._count(topic)
        groups = self._group_names(topic)
        for group in groups:  # all or nothing: look at every group before the first one goes
            self._check_idle(topic, group)
        parts = _partitions(topic, count)
        self._client.call(
            [("HDEL", names.TOPICS, topic)]
            + [("UNLINK", names.stream(part), *names.delayed(part), *names.instances(part)) for part in parts]
            + [("UNLINK", *_keys_of(part, group)) for part in parts for group in groups]
            + [("UNLINK", *names.members(topic, group)) for group in groups]
        )

    def _make_streams(self, topic: str, count: int) -> None:
        """A stream without entries exists by a group that is made and removed."""
        streams = [names.stream(part) for part in _partitions(topic, count)]
        missing = [key for key, there in zip(streams, self._client.call([("EXISTS", key) for key in streams]), strict=True) if not there]
        commands: list[Command] = []
        for key in missing:
            commands += [("XGROUP", "CREATE", key, "mq-make", "0", "MKSTREAM"), ("XGROUP", "DESTROY", key, "mq-make")]
        try:
            self._client.call(commands)
        except BackendError:
            # Another process made the same topic meanwhile, and its helper group stood in the way.
            if not all(self._client.call([("EXISTS", key) for key in streams])):
                raise

    def _topic_info(self, name: str, count: int) -> TopicInfo:
        streams = [names.stream(part) for part in _partitions(name, count)]
        lengths = self._client.call([("XLEN", key) for key in streams])
        sizes = self._client.call([("MEMORY", "USAGE", key) for key in streams])
        return TopicInfo(name, count, tuple(self._group_names(name)), sum(lengths), sum(size or 0 for size in sizes))

    # --- groups -------------------------------------------------------------------------------------------------------------------------

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        check_name("group", group)
        parts = _partitions(topic, self._count(topic))
        begins = [self._begin(part, start) for part in parts]
        calls = [self._move(part) for part in parts]
        calls += [self._scripts.restore.call((names.stream(part),), group, begin, b"0") for part, begin in zip(parts, begins, strict=True)]
        if any(reply[0] == b"gone" for reply in self._client.call(calls)[len(parts) :]):
            raise self._missing(topic)

    def groups(self, topic: str) -> list[GroupInfo]:
        count = self.partitions(topic)
        return [] if count is None else [self._group_info(topic, group, count) for group in self._group_names(topic)]

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        count = self.partitions(topic)
        if count is None:
            return []
        parts = _partitions(topic, count)
        moves = [self._move(part) for part in parts]
        asked = [self._scripts.state.call((names.stream(part), names.ownership(part, group)), group) for part in parts]
        waiting: list[Command] = [("ZCARD", names.delayed(part)[0]) for part in parts]
        replies = self._client.call(moves + asked + waiting)
        moved, states, delayed = replies[:count], replies[count : 2 * count], replies[2 * count :]
        if not all(state and state[4] for state in states):
            return []
        return [_progress(part.number, *found) for part, *found in zip(parts, states, moved, delayed, strict=True)]

    def reset(self, topic: str, group: str, positions: dict[int, int]) -> None:
        self._check_idle(topic, group)
        if group not in self._group_names(topic):
            raise self._missing_group(topic, group)
        commands: list[Command] = []
        epochs = self._client.call([("HGET", names.ownership(Partition(topic, number), group), "epoch") for number in positions])
        for (number, position), epoch in zip(positions.items(), epochs, strict=True):
            part = Partition(topic, number)
            first, end = self.bounds(topic, number)
            key, begin = names.stream(part), id_before(max(first, min(position, end)))
            commands += [("XGROUP", "DELCONSUMER", key, group, CONSUMER), ("XGROUP", "SETID", key, group, begin)]
            commands += [("HDEL", names.ownership(part, group), "sparse"), ("UNLINK", names.lease(part, group))]
            commands.append(("UNLINK", names.fences(part, group) + (epoch or b"0")))
        self._client.call(commands)

    def saved(self, topic: str, group: str) -> list[SavedProgress]:
        count = self.partitions(topic)
        if count is None or group not in self._group_names(topic):
            return []
        parts = _partitions(topic, count)
        left = self._client.call([("HMGET", names.ownership(part, group), "epoch", "sparse") for part in parts])
        return [SavedProgress(part.number, int(epoch or 0), sparse or b"") for part, (epoch, sparse) in zip(parts, left, strict=True)]

    def amend(self, topic: str, group: str, saved: SavedProgress, sparse: bytes) -> bool:
        self._check_idle(topic, group)
        place = self._place(topic, saved.partition)
        (is_done,) = self._client.call([self._scripts.amend.call(_keys_of(place, group), saved.epoch, saved.sparse, sparse)])
        return bool(is_done)

    def delete_group(self, topic: str, group: str) -> None:
        count = self.partitions(topic)
        if count is None:
            return
        self._check_idle(topic, group)
        parts = _partitions(topic, count)
        self._client.call(
            [("XGROUP", "DESTROY", names.stream(part), group) for part in parts]
            + [("UNLINK", *_keys_of(part, group)) for part in parts]
            + [("UNLINK", *names.members(topic, group))]
        )

    def _group_names(self, topic: str) -> list[str]:
        key = names.stream(Partition(topic, 0))
        if not self._client.call([("EXISTS", key)])[0]:
            return []
        (groups,) = self._client.call([("XINFO", "GROUPS", key)])
        return sorted(dict(zip(group[::2], group[1::2], strict=True))[b"name"].decode() for group in groups)

    def _group_info(self, topic: str, group: str, count: int) -> GroupInfo:
        living = self._living(topic, group)
        owners = self._client.call([("GET", names.lease(part, group)) for part in _partitions(topic, count)]) if living else []
        owned: dict[bytes, list[int]] = {}
        for number, owner in enumerate(owners):
            owned.setdefault((owner or b"").split(b"|")[0], []).append(number)
        members = tuple(_member(name, about, owned.get(name, [])) for name, about in living.items())
        return GroupInfo(topic, group, members)

    def _living(self, topic: str, group: str) -> dict[bytes, dict[str, Any]]:
        """Members whose lease has not lapsed -> what they say about themselves."""
        members, about, _ = names.members(topic, group)
        time, found, said = self._client.call([("TIME",), ("ZRANGE", members, 0, -1, "WITHSCORES"), ("HGETALL", about)])
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        texts = dict(zip(said[::2], said[1::2], strict=True))
        alive = [name for name, expiry in zip(found[::2], found[1::2], strict=True) if float(expiry) > now_ms]
        return {name: json.loads(texts.get(name, b"{}")) for name in alive}

    def _check_idle(self, topic: str, group: str) -> None:
        if living := self._living(topic, group):
            raise StateError(
                f"group `{group}` has {len(living)} member(s) in topic `{topic}`",
                where=f"cluster {self._client.cluster} ({KIND})",
                fix="stop its consumers first; members: "
                + ", ".join(f"{about.get('host')}:{about.get('pid')}" for about in living.values()),
                state="active",
            )

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        key, found = names.stream(self._place(topic, partition)), list[Record]()
        while len(found) < limit:
            chunk = min(READ_CHUNK, limit - len(found))
            (entries,) = self._client.call([("XRANGE", key, id_of(position), "+", "COUNT", chunk)])
            found += [RedisRecord(position_of(stream_id), fields) for stream_id, fields in entries]
            if len(entries) < chunk:
                break
            position = found[-1].position + 1
        return found

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        key = names.stream(self._place(topic, partition))
        place = Partition(topic, partition)
        _, first, info = self._client.call([self._move(place), ("XRANGE", key, "-", "+", "COUNT", 1), ("XINFO", "STREAM", key)])
        end = position_of(dict(zip(info[::2], info[1::2], strict=True))[b"last-generated-id"]) + 1
        return (position_of(first[0][0]) if first else end), end

    def ends(self, topic: str) -> list[End]:
        """Where the partitions end now. BackendError when there is no such topic."""
        parts = _partitions(topic, self._count(topic))
        calls = [self._move(part) for part in parts] + [("XINFO", "STREAM", names.stream(part)) for part in parts]
        found = [dict(zip(info[::2], info[1::2], strict=True)) for info in self._client.call(calls)[len(parts) :]]
        return [End(info[b"last-generated-id"], info[b"entries-added"]) for info in found]

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        """By halving, as if publish times never fell within a partition."""
        low, high = self.bounds(topic, partition)
        end = high
        while low < high:
            # A clock's ids begin far above the counted ones: the halves of such a span are skipped by the entry that is found there.
            middle = (low + high) // 2
            found = self.read(topic, partition, middle, 1)
            if not found or found[0].position >= high:
                high = middle
            elif _time_of(found[0]) < time_ms:
                low = found[0].position + 1
            else:
                high = middle
        found = self.read(topic, partition, low, 1)
        return found[0].position if found else end

    def _move(self, partition: Partition) -> Command:
        """What is due is to be seen although nobody runs."""
        return self._scripts.move.call((names.stream(partition), *names.delayed(partition)))

    # --- inside -------------------------------------------------------------------------------------------------------------------------

    def _begin(self, partition: Partition, start: Start) -> bytes:
        if isinstance(start, datetime):
            return id_before(self.locate(*partition, int(start.timestamp() * 1000)))
        return b"latest" if start == "latest" else b"earliest"

    def _place(self, topic: str, number: int) -> Partition:
        if not 0 <= number < self._count(topic):
            raise BackendError(f"topic `{topic}` has no partition {number}", cluster=self._client.cluster, backend=KIND)
        return Partition(topic, number)

    def _count(self, topic: str) -> int:
        found = self.partitions(topic)
        if found is None:
            raise self._missing(topic)
        return found

    def _missing(self, topic: str) -> BackendError:
        fix = "create it first, or look at `mqsdk topics`"
        return BackendError(f"there is no topic `{topic}`", cluster=self._client.cluster, backend=KIND, fix=fix)

    def _missing_group(self, topic: str, group: str) -> BackendError:
        what = f"topic `{topic}` has no group `{group}`"
        return BackendError(what, cluster=self._client.cluster, backend=KIND, fix="look at `mqsdk groups`")


def _partitions(topic: str, count: int) -> list[Partition]:
    return [Partition(topic, number) for number in range(count)]


def _keys_of(partition: Partition, group: str) -> tuple[bytes, bytes]:
    return names.lease(partition, group), names.ownership(partition, group)


def _member(name: bytes, about: dict[str, Any], owned: Sequence[int]) -> Member:
    return Member(name.decode(), about.get("host", ""), about.get("pid"), tuple(owned))


def _progress(number: int, state: Sequence[Any], moved: Sequence[Any], delayed: int) -> PartitionProgress:
    """moved: what move.lua returns. delayed: all that have no place in the stream yet, though the time of some may have come."""
    due = int(moved[3])
    first, last, _, _, delivered, _, oldest, messages, entry, epoch = state
    end = position_of(last) + 1
    watermark = position_of(oldest) if oldest else position_of(delivered) + 1
    oldest_ms = _time_of(RedisRecord(position_of(entry[0]), entry[1])) if entry else None
    start = position_of(first) if first else end
    return PartitionProgress(number, min(watermark, end), end, messages + due, oldest_ms, start, int(epoch), delayed - due)


def _time_of(record: Record) -> int:
    """When it was stored or due; for a foreign entry by the server's clock."""
    return record.placed_ms or 0
