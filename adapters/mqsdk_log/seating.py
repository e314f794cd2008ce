"""Which seat a subscription takes: a member's in its group, or one that nobody shares."""

from __future__ import annotations

from collections.abc import Mapping

from mqsdk.spi import Subscription
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.seat import Mark, Seat
from mqsdk_log.engine.solo import Solo
from mqsdk_log.engine.topic import Topic
from mqsdk_log.moving import end_of_now


def begun(log: Log, subscription: Subscription) -> list[str]:
    """The topic, and those beside it in which the group has begun."""
    first, *others = subscription.topics
    group = Group(log.path, subscription.group, subscription.lease_s)
    return [first, *(topic for topic in others if group.knows(topic))]


def seat_of(log: Log, subscription: Subscription, topics: Mapping[str, Topic], mark: Mark | None) -> Seat | Solo:
    """topics: those that have begun. Raises NoSuchGroup."""
    if subscription.broadcast:
        ((name, topic),) = topics.items()
        begins = {(name, number): end_of_now(topic.partition(number)) for number in range(topic.partition_count)}
        return Solo({**begins, **{(name, number): position for number, position in subscription.positions}})
    group = Group(log.path, subscription.group, subscription.lease_s)
    wakers = {name: topic.wake_all for name, topic in topics.items()}
    awaited = [topic for topic in subscription.topics if topic not in topics]
    return Seat(group, wakers, subscription.lease_s, subscription.instance, mark, awaited)
