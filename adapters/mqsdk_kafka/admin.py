"""Looking at the cluster and arranging it. Nothing is kept between two calls; every process sees the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kafka import TopicPartition
from kafka import errors as raw
from kafka.structs import OffsetAndMetadata

from mqsdk.spi import (
    Admin,
    BackendError,
    ConfigError,
    GroupInfo,
    PartitionProgress,
    Record,
    SavedProgress,
    Start,
    StateError,
    Subscription,
    TopicInfo,
    UnsafeBackend,
)
from mqsdk_kafka import marks
from mqsdk_kafka.client import Client
from mqsdk_kafka.errors import KIND
from mqsdk_kafka.looking import Looking, heads, members_of, read
from mqsdk_kafka.marks import Mark
from mqsdk_kafka.names import DELAYS, check_name, group_id, group_of

DEFAULT_PARTITIONS = 8
MAX_PARTITIONS = 10_000
SETTLE_S = 10.0  # until every broker knows of a topic that was made or deleted
TICK_S = 0.02
OWN_TOPICS = (".retry", ".dlq", ".delay")  # suffixes of topics that must not expire: what waits there was not handled
MESSAGE_BYTES = 2 << 20  # Kafka's own default is too small for a payload of 1 MiB with its headers
EXISTS = raw.TopicAlreadyExistsError.errno


class KafkaAdmin(Admin):
    """Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looking = Looking(client)
        self._template = client.settings.own.group_id

    # --- topics -------------------------------------------------------------------------------------------------------------------------

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        check_name("topic", topic)
        wanted = DEFAULT_PARTITIONS if partitions is None else partitions
        if not 0 < wanted <= MAX_PARTITIONS:
            where = f"cluster {self._client.cluster}"
            raise ConfigError(f"topic `{topic}` cannot be created: {wanted} is no number of partitions", where=where)
        count = self.partitions(topic)
        if count is None:
            self._create(topic, wanted)
            self._wait_until(lambda: all(self._looking.known_by(topic)))
            count = self.partitions(topic)
            if count is None:
                raise self._missing(topic)
        if partitions is not None and count != partitions:
            raise UnsafeBackend(
                f"topic `{topic}` has {count} partitions, not {partitions}: keys would move",
                finding="partitions",
                cluster=self._client.cluster,
                backend=KIND,
                fix=f"declare partitions: {count}, or use another topic",
            )
        return count

    def partitions(self, topic: str, deadline: float | None = None) -> int | None:
        return self._looking.counts([topic], deadline).get(topic)

    def ends(self, topic: str) -> dict[int, int]:
        """Offset after the newest record of each partition. Raises BackendError when there is no such topic."""
        _, ends = self._looking.bounds(self._places(topic))
        return {place.partition: end for place, end in ends.items()}

    def existing(self, topics: Sequence[str], deadline: float) -> set[str]:
        """Which of these topics exist."""
        return set(self._looking.counts(topics, deadline))

    def topics(self) -> list[TopicInfo]:
        counts = self._looking.counts(None)
        places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        starts, ends = self._looking.bounds(places)
        groups: dict[str, set[str]] = {}
        for identifier, topics in self._looking.topics_of_groups().items():
            for topic in topics:
                if (group := group_of(self._template, topic, identifier)) is not None:
                    groups.setdefault(topic, set()).add(group)
        held: dict[str, int] = {}
        for place in places:
            held[place.topic] = held.get(place.topic, 0) + ends[place] - starts[place]
        return [TopicInfo(name, count, tuple(sorted(groups.get(name, ()))), held[name]) for name, count in sorted(counts.items())]

    def trim(self, topic: str, positions: dict[int, int]) -> None:
        wanted = {TopicPartition(topic, number): position for number, position in positions.items()}
        self._client.look(lambda admin: admin.delete_records(wanted))

    def delete_topic(self, topic: str) -> None:
        places = self._places(topic)
        infos = self.groups(topic)
        for info in infos:  # all or nothing: look at every group before the first one goes
            self._check_idle(topic, info)
        for info in infos:
            self._forget(self._id(topic, info.group), places)
        self._client.look(lambda admin: admin.delete_topics([topic], raise_errors=False))
        self._wait_until(lambda: not any(self._looking.known_by(topic)))

    def _create(self, topic: str, count: int) -> None:
        replication = self._client.settings.own.replication
        wanted: dict[str, Any] = {"num_partitions": count, "replication_factor": -1 if replication is None else replication}
        wanted["configs"] = {"max.message.bytes": str(MESSAGE_BYTES)}
        if topic.endswith(OWN_TOPICS) or topic.startswith("mq."):
            wanted["configs"] |= {"retention.ms": "-1", "retention.bytes": "-1"}
        answer = self._client.look(lambda admin: admin.create_topics({topic: wanted}, raise_errors=False))
        code = answer["topics"][0]["error_code"]
        if code not in (0, EXISTS):
            error = raw.for_code(code)
            if issubclass(error, raw.AuthorizationError):
                raise self._client.doors.error(error())
            fix = "lower `replication`" if error is raw.InvalidReplicationFactorError else ""
            what = f"topic `{topic}` cannot be created: the broker answers {error.__name__}"
            raise BackendError(what, cluster=self._client.cluster, backend=KIND, fix=fix)

    @staticmethod
    def _wait_until(every_broker: Callable[[], bool]) -> None:
        """A change of the topics reaches one broker after the other."""
        give_up = time.monotonic() + SETTLE_S
        while not every_broker() and time.monotonic() < give_up:
            time.sleep(TICK_S)

    # --- groups -------------------------------------------------------------------------------------------------------------------------

    def begin(self, subscription: Subscription) -> list[str]:
        """Let the group have progress in what is to be read; the topics that exist. Raises BackendError when the first one does not."""
        first, *others = subscription.topics
        group = check_name("group", subscription.group)
        identifier = self._id(first, group)
        found = self._looking.counts(subscription.topics)
        if first not in found:
            raise self._missing(first)
        self._ensure(identifier, self._of(first, found[first]), subscription.start)
        there = [first]
        for topic in others:
            if topic not in found and not topic.endswith(f".{group}.retry") and not topic.startswith(DELAYS):
                raise self._missing(topic)
            if topic in found:
                self._ensure(identifier, self._of(topic, found[topic]), None)
                there.append(topic)
        return there

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        check_name("group", group)
        self._ensure(self._id(topic, group), self._places(topic), start)

    def groups(self, topic: str) -> list[GroupInfo]:
        found = [
            (group, identifier)
            for identifier, topics in self._looking.topics_of_groups().items()
            if topic in topics and (group := group_of(self._template, topic, identifier)) is not None
        ]
        described = self._looking.described([identifier for _, identifier in found])
        return [GroupInfo(topic, group, members_of(described[identifier], topic)) for group, identifier in sorted(found)]

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        count = self.partitions(topic)
        if count is None:
            return []
        places = self._of(topic, count)
        committed = self._looking.committed(self._id(topic, group), places)
        if not committed:
            return []
        starts, ends = self._looking.bounds(places)
        at = {place: max(starts[place], committed[place].offset if place in committed else 0) for place in places}
        behind = {place: (at[place], ends[place]) for place in places if at[place] < ends[place]}
        oldest = heads(self._client, behind)
        epochs = {place: marks.decode(stored.metadata).epoch for place, stored in committed.items()}
        return [
            PartitionProgress(
                place.partition,
                at[place],
                ends[place],
                ends[place] - at[place],
                oldest.get(place),
                starts[place],
                epochs.get(place, 0),
            )
            for place in places
        ]

    def reset(self, topic: str, group: str, positions: dict[int, int]) -> None:
        identifier = self._id(topic, group)
        places = [TopicPartition(topic, number) for number in positions]
        committed = self._looking.committed(identifier, self._places(topic))
        if not committed:
            what = f"topic `{topic}` has no group `{group}`"
            raise BackendError(what, cluster=self._client.cluster, backend=KIND, fix="look at `mqsdk groups`")
        self._check_idle(topic, GroupInfo(topic, group, members_of(self._looking.described([identifier])[identifier], None)))
        starts, ends = self._looking.bounds(places)
        wanted = {}
        for place in places:
            position = max(starts[place], min(positions[place.partition], ends[place]))
            epoch = marks.decode(committed[place].metadata).epoch if place in committed else 0
            wanted[place] = OffsetAndMetadata(position, marks.encode(Mark(True, epoch)), -1)
        self._alter(identifier, wanted)

    def saved(self, topic: str, group: str) -> list[SavedProgress]:
        count = self.partitions(topic)
        if count is None:
            return []
        places = self._of(topic, count)
        committed = self._looking.committed(self._id(topic, group), places)
        left = {place: marks.decode(stored.metadata) for place, stored in committed.items()}
        return [SavedProgress(place.partition, left[place].epoch, left[place].blob) for place in places if place in left]

    def amend(self, topic: str, group: str, saved: SavedProgress, sparse: bytes) -> bool:
        identifier, place = self._id(topic, group), self._place(topic, saved.partition)
        self._check_idle(topic, GroupInfo(topic, group, members_of(self._looking.described([identifier])[identifier], None)))
        stored = self._looking.committed(identifier, [place]).get(place)
        left = marks.decode(None if stored is None else stored.metadata)
        if stored is None or (left.epoch, left.blob) != (saved.epoch, saved.sparse):
            return False
        self._alter(identifier, {place: OffsetAndMetadata(stored.offset, marks.encode(left._replace(blob=sparse)), -1)})
        return True

    def delete_group(self, topic: str, group: str) -> None:
        count = self.partitions(topic)
        if count is None:
            return
        identifier = self._id(topic, group)
        self._check_idle(topic, GroupInfo(topic, group, members_of(self._looking.described([identifier])[identifier], topic)))
        self._forget(identifier, self._of(topic, count))

    def _ensure(self, identifier: str, places: Sequence[TopicPartition], start: Start) -> None:
        """Commit where the group begins, for partitions in which it has no progress."""
        committed = self._looking.committed(identifier, places)
        missing = [place for place in places if place not in committed]
        if not missing:
            return
        # A partition that was added to a topic later is read from its beginning, whatever the group began with.
        begins = self._begins(missing, None if committed else start)
        empty = marks.encode(Mark())
        try:
            self._alter(identifier, {place: OffsetAndMetadata(position, empty, -1) for place, position in begins.items()})
        except StateError:
            # Members run already: they begin by themselves at the beginning of a topic in which they have no progress.
            if start is not None and not committed:
                raise

    def _begins(self, places: Sequence[TopicPartition], start: Start) -> Mapping[TopicPartition, int]:
        starts, ends = self._looking.bounds(places)
        if isinstance(start, datetime):
            time_ms = int(start.timestamp() * 1000)
            return {place: self._looking.located(place, time_ms, ends[place]) for place in places}
        return ends if start == "latest" else starts

    def _alter(self, identifier: str, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        def alter(admin: Any) -> None:
            answers = admin.alter_group_offsets(identifier, dict(wanted))
            errors = [error for error in answers.values() if error is not raw.NoError]
            if errors:
                raise errors[0]()

        try:
            self._client.look(alter)
        except BackendError as error:
            if isinstance(error.__cause__, raw.UnknownMemberIdError | raw.NonEmptyGroupError):
                what = f"consumer group `{identifier}` has members"
                raise StateError(what, where=self._client.doors.where, fix="stop its consumers first", state="active") from error
            raise

    def _forget(self, identifier: str, places: Sequence[TopicPartition]) -> None:
        """Delete the group's progress in these partitions; the group itself when nothing is left of it."""
        try:
            self._client.look(lambda admin: admin.delete_group_offsets(identifier, places))
            left = self._looking.topics_of([identifier])
            if not left.get(identifier):
                self._client.look(lambda admin: admin.delete_groups([identifier]))
        except BackendError as error:
            if not isinstance(error.__cause__, raw.GroupIdNotFoundError):
                raise

    def _check_idle(self, topic: str, info: GroupInfo) -> None:
        if info.members:
            raise StateError(
                f"group `{info.group}` has {len(info.members)} member(s) in topic `{topic}`",
                where=f"cluster {self._client.cluster} ({KIND})",
                fix="stop its consumers first; members: " + ", ".join(f"{member.host}:{member.pid}" for member in info.members),
                state="active",
            )

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        place = self._place(topic, partition)
        (start,), (end,) = (list(found.values()) for found in self._looking.bounds([place]))
        return list(read(self._client, place, max(position, start), end, limit))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        place = self._place(topic, partition)
        starts, ends = self._looking.bounds([place])
        return starts[place], ends[place]

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        place = self._place(topic, partition)
        _, ends = self._looking.bounds([place])
        return self._looking.located(place, time_ms, ends[place])

    # --- inside -------------------------------------------------------------------------------------------------------------------------

    def _id(self, topic: str, group: str) -> str:
        return group_id(self._template, topic, group)

    def _place(self, topic: str, number: int) -> TopicPartition:
        if not 0 <= number < len(self._places(topic)):
            raise BackendError(f"topic `{topic}` has no partition {number}", cluster=self._client.cluster, backend=KIND)
        return TopicPartition(topic, number)

    def _places(self, topic: str) -> list[TopicPartition]:
        found = self.partitions(topic)
        if found is None:
            raise self._missing(topic)
        return self._of(topic, found)

    @staticmethod
    def _of(topic: str, count: int) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(count)]

    def _missing(self, topic: str) -> BackendError:
        fix = "create it first, or look at `mqsdk topics`"
        return BackendError(f"there is no topic `{topic}`", cluster=self._client.cluster, backend=KIND, fix=fix)
