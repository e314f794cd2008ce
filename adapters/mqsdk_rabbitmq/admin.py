"""Looking at the cluster and arranging it. Nothing is kept between two calls; every process sees the same."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from mqsdk.spi import (
    Admin,
    BackendError,
    CapabilityError,
    ConfigError,
    GroupInfo,
    Member,
    Partition,
    PartitionProgress,
    Record,
    Start,
    StateError,
    TopicInfo,
    UnsafeBackend,
)
from mqsdk_rabbitmq import names, topology
from mqsdk_rabbitmq.browse import browse
from mqsdk_rabbitmq.catalog import Catalog, Held, Topic, held
from mqsdk_rabbitmq.delays import can_delay
from mqsdk_rabbitmq.errors import KIND
from mqsdk_rabbitmq.feed import Feed
from mqsdk_rabbitmq.names import check_group, check_topic
from mqsdk_rabbitmq.peers import BEGUN, Note
from mqsdk_rabbitmq.roll import roll_call
from mqsdk_rabbitmq.session import Dialer, Session

DEFAULT_PARTITIONS = 8
MAX_PARTITIONS = 1024  # each costs two queues per group, and a member one channel; a connection has 2,047
CALL_S = 30.0
# A dead letter is stored before its original is settled, whether anybody reads dead letters yet or not: their topics begin with a group.
DEAD_LETTERS, KEPT = ".dlq", "kept"
RETRIES = ".retry"


class RabbitAdmin(Admin):
    """Thread-safe: every call has a connection of its own."""

    def __init__(self, dialer: Dialer, check: Callable[[], None], deleted: Callable[[str], None]) -> None:
        """check: raises where the backend is closed. deleted: called with the name of a topic that is no more."""
        self._dialer = dialer
        self._check = check
        self._deleted = deleted
        self._type = dialer.settings.own.queues

    @contextmanager
    def _session(self) -> Iterator[Session]:
        self._check()
        with self._dialer.session(time.monotonic() + CALL_S) as session:
            yield session

    @contextmanager
    def _catalog(self) -> Iterator[tuple[Session, Held]]:
        with self._session() as session, held(session, self._type) as holder:
            yield session, holder

    def _read(self) -> Catalog:
        with self._catalog() as (_, holder):
            return holder.catalog

    # --- topics -------------------------------------------------------------------------------------------------------------------------

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        check_topic(topic)
        wanted = DEFAULT_PARTITIONS if partitions is None else partitions
        if not 0 < wanted <= MAX_PARTITIONS:
            raise ConfigError(f"topic `{topic}` cannot be created: {wanted} is no number of partitions", where=self._where)
        with self._catalog() as (session, holder):
            found = holder.catalog.topics.get(topic)
            if found is None:
                topology.make_topic(session, topic)
                made = Topic(wanted)
                if topic.endswith(DEAD_LETTERS):
                    topology.make_group(session, topic, made, KEPT, self._type, is_known=False)
                    made.groups.add(KEPT)
                holder.catalog.topics[topic] = made
                holder.save()
                return wanted
            if partitions is not None and found.partitions != partitions:
                raise UnsafeBackend(
                    f"topic `{topic}` has {found.partitions} partitions, not {partitions}: keys would move",
                    finding="partitions",
                    cluster=self._dialer.cluster,
                    backend=KIND,
                    fix=f"declare partitions: {found.partitions}, or use another topic",
                )
            topology.make_topic(session, topic)
            return found.partitions

    def partitions(self, topic: str) -> int | None:
        found = self._read().topics.get(topic)
        return None if found is None else found.partitions

    def topics(self) -> list[TopicInfo]:
        """Without numbers of messages: AMQP counts what waits in a queue, not what a topic holds."""
        topics = sorted(self._read().topics.items())
        return [TopicInfo(name, about.partitions, tuple(sorted(about.groups))) for name, about in topics]

    def delete_topic(self, topic: str) -> None:
        with self._catalog() as (session, holder):
            found = self._found(holder.catalog, topic)
            for group in found.groups:  # all or nothing: look at every group before the first one goes
                self._check_idle(session, topic, group)
            del holder.catalog.topics[topic]
            holder.save()
            topology.drop_topic(session, topic, found.mark)
            self._deleted(topic)
            for group in found.groups:
                topology.drop_group(session, topic, group, found.partitions)

    # --- groups -------------------------------------------------------------------------------------------------------------------------

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        self.ensure_group_of(topic, group, start)

    def ensure_group_of(self, topic: str, group: str, start: Start) -> int:
        """As `ensure_group`; the number of partitions. Raises CapabilityError for a new group that is to begin in the past."""
        check_group(group)
        with self._catalog() as (session, holder):
            found = self._found(holder.catalog, topic)
            is_known = group in found.groups
            if not is_known and (start == "earliest" or isinstance(start, datetime)):
                raise CapabilityError(
                    f"group `{group}` of topic `{topic}` cannot begin in the past: RabbitMQ keeps none for a group to come",
                    where=self._where,
                    fix="begin at the latest, and ensure groups before what they are to see is published",
                    capability="history",
                    cluster=self._dialer.cluster,
                )
            topology.make_group(session, topic, found, group, self._type, is_known)
            if not is_known:
                found.groups.add(group)
                holder.save()
            _tell_members(session, holder.catalog, topic, group)
            return found.partitions

    def groups(self, topic: str) -> list[GroupInfo]:
        found = self._read().topics.get(topic)
        if found is None:
            return []
        with self._session() as session:
            return [GroupInfo(topic, group, _members(session, topic, group)) for group in sorted(found.groups)]

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        """What waits in the queues, and what the members say that they hold; what is on its way between the two is not counted."""
        found = self._read().topics.get(topic)
        if found is None or group not in found.groups:
            return []
        with self._session() as session:
            held: Counter[int] = Counter()
            for note in roll_call(session, topic, group):
                held.update(dict(zip(note.partitions, note.held, strict=False)))
            return [_progress(session, Partition(topic, number), group, held[number]) for number in range(found.partitions)]

    def delete_group(self, topic: str, group: str) -> None:
        with self._catalog() as (session, holder):
            found = self._found(holder.catalog, topic)
            if group not in found.groups:
                return
            self._check_idle(session, topic, group)
            found.groups.discard(group)
            holder.save()
            if found.mark and not found.groups:
                topology.close_delays(session, topic, found.mark)
            topology.drop_group(session, topic, group, found.partitions)

    def make_feeds(self, topic: str, left: Mapping[int, Feed]) -> list[Feed]:
        """What a new instance of a broadcast receives from now on. left: what an earlier one has left, by partition.

        The way of what is delayed is made too: once there is an instance, nobody else could bind its queues.
        """
        instance = f"{time.time_ns() // 1_000_000:013x}-{secrets.token_hex(4)}"
        with self._catalog() as (session, holder):
            found = self._found(holder.catalog, topic)
            if not found.mark and can_delay(session):
                topology.make_delays(session, holder.catalog, topic, self._type)
                holder.save()
            partitions = [Partition(topic, number) for number in range(found.partitions)]
            feeds = [left.get(one.number) or Feed(one, names.feed(one, instance)) for one in partitions]
            for feed in feeds:
                topology.make_feed(session, feed.partition, feed.queue, found.mark, self._type)
        return feeds

    def drop_feeds(self, feeds: Iterable[Feed]) -> None:
        with self._dialer.session(time.monotonic() + CALL_S) as session:
            for feed in feeds:
                session.channel.queue_delete(feed.queue)

    # --- dead letters -------------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        """Of topics of dead letters only, which are what somebody has to look at: see `browse`."""
        if not topic.endswith(DEAD_LETTERS):
            return super().read(topic, partition, position, limit)
        with self._session() as session:
            return browse(session, Partition(topic, partition), KEPT, max(0, position), limit)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """As `read`."""
        if not topic.endswith(DEAD_LETTERS):
            return super().bounds(topic, partition)
        with self._session() as session:
            found = session.queue(names.queue(Partition(topic, partition), KEPT))
        return 0, found[0] if found is not None else 0

    # --- parts --------------------------------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"cluster {self._dialer.cluster} ({KIND})"

    def _found(self, catalog: Catalog, topic: str) -> Topic:
        found = catalog.topics.get(check_topic(topic))
        if found is None:
            raise BackendError(
                f"there is no topic `{topic}`", where=self._where, cluster=self._dialer.cluster, backend=KIND, fix="create it first"
            )
        return found

    def _check_idle(self, session: Session, topic: str, group: str) -> None:
        found = session.queue(names.members(topic, group))
        if found is not None and found[1] > 0:
            raise StateError(
                f"group `{group}` of topic `{topic}` has members", where=self._where, fix="stop its consumers", state="members"
            )


def _tell_members(session: Session, catalog: Catalog, topic: str, group: str) -> None:
    """Where the topic is a companion: its members look for it when they hear that the group has begun there."""
    chief = topic.removesuffix(f".{group}{RETRIES}")
    if chief != topic and chief in catalog.topics and group in catalog.topics[chief].groups:
        exchange = names.members(chief, group)
        if session.exists(lambda channel: channel.exchange_declare(exchange, "fanout", passive=True)) is not None:
            session.channel.basic_publish(exchange, "", Note(BEGUN, topic).encode())


def _members(session: Session, topic: str, group: str) -> tuple[Member, ...]:
    return tuple(
        Member(note.instance or note.member or "?", note.host, note.pid or None, note.partitions)
        for note in roll_call(session, topic, group)
    )


def _progress(session: Session, partition: Partition, group: str, held: int) -> PartitionProgress:
    ready, _ = session.queue(names.queue(partition, group)) or (0, 0)
    return PartitionProgress(partition.number, 0, ready + held, ready + held)
