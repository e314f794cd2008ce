"""Keys of the server, and the last check of a name before it becomes part of one.

Every key of one partition carries the hash tag `{topic:partition}`, every key of a group's members `{topic}`: what a script touches lives
in one slot.
"""

from __future__ import annotations

import re

from mqsdk.spi import ConfigError, Partition

TOPICS = b"mq:topics"  # hash: topic -> number of partitions
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", re.ASCII)


def check_name(what: str, name: str) -> str:
    """Return the name. ConfigError for one that could be read as something else inside a key."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"not a usable {what} name", fix="letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
    return name


def stream(partition: Partition) -> bytes:
    """The entries."""
    return b"mq:{%s:%d}:s" % (partition.topic.encode(), partition.number)


def delayed(partition: Partition) -> tuple[bytes, bytes, bytes]:
    """What is not due yet: sorted set of serials by due time in ms, hash serial -> entry (and `n`, the last serial given).

    And a stream that tells the owners that something is due earlier than anything before.
    """
    base = b"mq:{%s:%d}:" % (partition.topic.encode(), partition.number)
    return base + b"d", base + b"dp", base + b"dn"


def instances(partition: Partition) -> tuple[bytes, bytes]:
    """Sorted set of the instances of broadcasts by expiry, hash instance -> id up to which it has settled."""
    base = b"mq:{%s:%d}:" % (partition.topic.encode(), partition.number)
    return base + b"b", base + b"bp"


def lease(partition: Partition, group: str) -> bytes:
    """`member|epoch` of the owner; expires with the lease."""
    return b"mq:{%s:%d}:l:%s" % (partition.topic.encode(), partition.number, group.encode())


def fences(partition: Partition, group: str) -> bytes:
    """What the name of a `fence` begins with; the epoch follows."""
    return b"mq:{%s:%d}:f:%s:" % (partition.topic.encode(), partition.number, group.encode())


def fence(partition: Partition, group: str, epoch: int) -> bytes:
    """Empty stream with this group, which lives as long as the lease of this epoch: a read that names it too takes nothing without it."""
    return fences(partition, group) + b"%d" % epoch


def ownership(partition: Partition, group: str) -> bytes:
    """Hash of what outlives an owner: `epoch` of the last one, `clean` (handed back in order), `sparse` (blob of layer 2)."""
    return b"mq:{%s:%d}:o:%s" % (partition.topic.encode(), partition.number, group.encode())


def members(topic: str, group: str) -> tuple[bytes, bytes, bytes]:
    """Sorted set of members by expiry, hash of what they say about themselves, stream that tells them that something changed."""
    base = b"mq:{%s}:" % topic.encode()
    return base + b"m:" + group.encode(), base + b"i:" + group.encode(), base + b"w:" + group.encode()
