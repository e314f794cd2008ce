"""Names of exchanges and queues, and the last check of a name before it becomes part of one.

`..` stands in no name of a topic or group, and a group has no dot: so every name below is read in one way only.
"""

from __future__ import annotations

import hashlib
import re

from mqsdk.spi import ConfigError, Partition

CATALOG = "mq..catalog"  # holds one message: all topics, their partitions and groups
DEAD = "mq..dead"  # exchange and queue of what the broker itself gives up; nothing should ever be there
LADDER = "mq..delay"  # exchange before the ladder of delays
DUE = "mq..due"  # exchange behind the ladder of delays; the key of a topic leads to its own exchange of what is due
MAX_SHORT = 255  # bytes of a name in AMQP 0-9-1
_LONGEST_BASE = 240
_LONGEST_TOPIC = 200
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,119}", re.ASCII)


def check_topic(name: str) -> str:
    """Return the name. ConfigError for one that could be read as something else inside a name of the broker."""
    if not _TOPIC.fullmatch(name) or ".." in name:
        raise ConfigError("not a usable topic name", fix="letters, digits, `.`, `_` and `-`, beginning with a letter or digit, no `..`")
    return name


def check_group(name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise ConfigError("not a usable group name", fix="letters, digits, `_` and `-`, beginning with a letter or digit")
    return name


def exchange(topic: str) -> str:
    """Direct exchange of a topic; the routing key is the number of the partition."""
    return f"mq.{topic}"


def queue(partition: Partition, group: str) -> str:
    """What the group has not settled of this partition."""
    return f"mq.{_base(partition.topic, group)}..{partition.number}"


def owner(partition: Partition, group: str) -> str:
    """Queue that holds one token: who has it owns the partition."""
    return f"mq.{_base(partition.topic, group)}..o{partition.number}"


def members(topic: str, group: str) -> str:
    """Queue on which every member keeps an idle consumer, and the fanout exchange by which they tell each other what they own."""
    return f"mq.{_base(topic, group)}..m"


def feed(partition: Partition, instance: str) -> str:
    """Queue of one instance of a broadcast."""
    return f"mq.{_base(partition.topic, f'~{instance}')}..{partition.number}"


def step(level: int) -> str:
    """Queue of one step of the ladder of delays, and the exchange before it."""
    return f"mq..delay.{level}"


def step_key(level: int, is_first: bool) -> str:
    """Routing key of a message that is to wait there, before all else or after other steps."""
    return f"{'f' if is_first else 'd'}{level}"


def delayed(topic: str, mark: str) -> str:
    """Exchange for what is to be delayed. mark: of this topic, and of no other one that ever has its name."""
    return f"mq.{topic[:_LONGEST_TOPIC]}..d{mark}"


def due(topic: str, mark: str) -> str:
    """Exchange to which that comes when it is due; the routing key is the number of the partition."""
    return f"mq.{topic[:_LONGEST_TOPIC]}..u{mark}"


def inbox(member: str) -> str:
    """Exclusive queue of one member."""
    return f"mq.~{member}"


def _base(topic: str, group: str) -> str:
    base = f"{topic}.{group}"
    if len(base) <= _LONGEST_BASE:
        return base
    return f"{base[:190]}~{hashlib.sha256(base.encode()).hexdigest()[:40]}"
