"""What is declared on the server for a topic and a group. All is durable; nothing that exists is declared anew with other settings."""

from __future__ import annotations

import secrets
from typing import Any

from mqsdk.spi import Partition
from mqsdk_rabbitmq import ladder, names
from mqsdk_rabbitmq.catalog import Catalog, Topic
from mqsdk_rabbitmq.session import Session
from mqsdk_rabbitmq.token import SEED, Token

EXPIRES_MS = 300_000  # how long an instance of a broadcast may be cut off from the server


def queue_arguments(queue_type: str) -> dict[str, Any]:
    """Of a partition's queue: full means refused, and what the server gives up (a delivery limit of its own) is kept beside."""
    arguments: dict[str, Any] = {
        "x-queue-type": queue_type,
        "x-single-active-consumer": True,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": names.DEAD,
    }
    if queue_type == "quorum":
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def feed_arguments(queue_type: str) -> dict[str, Any]:
    """Of the queue of an instance, which nobody deletes when its process dies. One consumer at a time: a cut one may stay for a while."""
    return {**queue_arguments(queue_type), "x-expires": EXPIRES_MS}


def owner_arguments(queue_type: str) -> dict[str, Any]:
    return {"x-queue-type": queue_type, "x-single-active-consumer": True}


def make_topic(session: Session, topic: str) -> None:
    session.channel.exchange_declare(names.exchange(topic), "direct", durable=True)


def make_dead(session: Session, queue_type: str) -> None:
    session.channel.exchange_declare(names.DEAD, "fanout", durable=True)
    if session.queue(names.DEAD) is None:
        session.channel.queue_declare(names.DEAD, durable=True, arguments={"x-queue-type": queue_type})
        session.channel.queue_bind(names.DEAD, names.DEAD)


def make_group(session: Session, topic: str, about: Topic, group: str, queue_type: str, is_known: bool) -> None:
    """is_known: the group was there before, so that a queue which is missing now has taken its messages with it."""
    if not is_known:
        make_dead(session, queue_type)
    members = names.members(topic, group)
    if not is_known or session.queue(members) is None:
        session.channel.queue_declare(members, durable=True, arguments={"x-queue-type": queue_type})
        session.channel.exchange_declare(members, "fanout", durable=True)
    for number in range(about.partitions):
        make_partition(session, Partition(topic, number), group, about.mark, queue_type, is_known)
    if about.mark:
        _open_delays(session, topic, about.mark)


def make_partition(session: Session, partition: Partition, group: str, mark: str, queue_type: str, is_known: bool) -> None:
    """mark: of the topic. Raises UnsafeBackend where one of the queues is there and is not as it has to be."""
    queue, owner = names.queue(partition, group), names.owner(partition, group)
    token = SEED
    if session.queue(queue) is not None:
        _check(session, queue, [queue_arguments(kind) for kind in _types(queue_type)])
    else:
        session.channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue_type))
        bind_partition(session, queue, partition, mark)
        token = Token(gap=is_known)
    found = session.queue(owner)
    if found is not None:
        _check(session, owner, [owner_arguments(kind) for kind in _types(queue_type)])
    else:
        session.channel.queue_declare(owner, durable=True, arguments=owner_arguments(queue_type))
    if found in (None, (0, 0)) or token.gap:
        session.put(owner, token.encode())


def bind_partition(session: Session, queue: str, partition: Partition, mark: str) -> None:
    """Let the queue have what is published, and what was delayed."""
    session.channel.queue_bind(queue, names.exchange(partition.topic), str(partition.number))
    if mark:
        session.channel.queue_bind(queue, names.due(partition.topic, mark), str(partition.number))


def make_feed(session: Session, partition: Partition, queue: str, mark: str, queue_type: str) -> None:
    """The queue of one instance of a broadcast."""
    session.channel.queue_declare(queue, durable=True, arguments=feed_arguments(queue_type))
    bind_partition(session, queue, partition, mark)
    if mark:
        _open_delays(session, partition.topic, mark)


def make_delays(session: Session, catalog: Catalog, topic: str, queue_type: str) -> None:
    """The way of a topic to the ladder and from it, and the ladder where there is none; the catalog is to be saved then.

    What comes from the ladder to no queue goes where somebody sees it.
    """
    if not catalog.has_ladder:
        make_dead(session, queue_type)
        ladder.make(session)
        catalog.has_ladder = True
    about = catalog.topics[topic]
    about.mark = secrets.token_hex(8)
    due = names.due(topic, about.mark)
    session.channel.exchange_declare(due, "direct", durable=True, arguments={"alternate-exchange": names.DEAD})
    session.channel.exchange_bind(due, names.DUE, about.mark)
    for group in about.groups:
        for number in range(about.partitions):
            partition = Partition(topic, number)
            bind_partition(session, names.queue(partition, group), partition, about.mark)
    session.channel.exchange_declare(names.delayed(topic, about.mark), "fanout", durable=True)
    if about.groups:
        _open_delays(session, topic, about.mark)


def _open_delays(session: Session, topic: str, mark: str) -> None:
    """There is somebody to delay for; without this a publish is returned, as one that is not delayed."""
    session.channel.exchange_bind(names.LADDER, names.delayed(topic, mark))


def _types(first: str) -> tuple[str, str]:
    """A queue keeps the type that it was made with, whatever is set now."""
    return first, "classic" if first == "quorum" else "quorum"


def _check(session: Session, queue: str, variants: list[dict[str, Any]]) -> None:
    session.require(queue, variants, "it would reorder or lose messages", "drain and delete it on the server")


def drop_group(session: Session, topic: str, group: str, partitions: int) -> None:
    for number in range(partitions):
        session.channel.queue_delete(names.queue(Partition(topic, number), group))
        session.channel.queue_delete(names.owner(Partition(topic, number), group))
    session.channel.queue_delete(names.members(topic, group))
    session.channel.exchange_delete(names.members(topic, group))


def close_delays(session: Session, topic: str, mark: str) -> None:
    """The last group is gone."""
    session.channel.exchange_unbind(names.LADDER, names.delayed(topic, mark))


def drop_topic(session: Session, topic: str, mark: str) -> None:
    session.channel.exchange_delete(names.exchange(topic))
    if mark:
        session.channel.exchange_delete(names.delayed(topic, mark))
        session.channel.exchange_delete(names.due(topic, mark))
