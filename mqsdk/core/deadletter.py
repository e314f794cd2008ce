"""Where dead letters go and what they say about themselves."""

from __future__ import annotations

from mqsdk.core.actions import Spec
from mqsdk.message import Origin
from mqsdk.spi.events import Record

ERROR_BYTES = 1024
PREFIX = "mq-dlq-"
# On a record that removes dead letters: their positions in the same partition. It has no body.
DONE = "mq-dlq-done"
# On a copy in a group's retry topic: `<topic>:<partition>:<position>` of the original.
REDRIVE_OF = "mq-redrive-of"


def topic(spec: Spec) -> str:
    """`<topic>.<group>.dlq`, or what the declaration names."""
    return spec.dead_letter or f"{spec.topic}.{spec.group}.dlq"


def is_done(record: Record) -> bool:
    """Whether it is no dead letter but the removal of some."""
    return any(name == DONE for name, _ in record.extra)


def _original(origin: Origin, record: Record) -> tuple[str, str]:
    """Partition and position of the message as it was first published: a redriven one names them, untrusted as all headers are."""
    text = next((value for name, value in record.extra if name == REDRIVE_OF), "")
    topic, _, place = text.partition(":")
    partition, _, position = place.partition(":")
    known = topic == origin.topic and partition.isascii() and partition.isdecimal() and len(partition) <= 9 and bool(position)
    return (partition, clean(position)) if known else (str(origin.partition), record.ref)


def origin_of(origin: Origin, record: Record) -> tuple[tuple[str, str], ...]:
    """The further `mq-*` headers of a copy for the group's retry topic: those of the record, and where it was first published."""
    place = f"{origin.topic}:{':'.join(_original(origin, record))}"
    return (*(pair for pair in record.extra if pair[0] != REDRIVE_OF), (REDRIVE_OF, place))


def headers(
    origin: Origin, record: Record, *, attempts: int, reason: str, error: str, first_at_ms: int, last_at_ms: int
) -> tuple[tuple[str, str], ...]:
    """The `mq-dlq-*` headers. attempts: failed ones, the last included. Times: milliseconds since 1970, of the first and last failure."""
    partition, position = _original(origin, record)
    return (
        (PREFIX + "topic", origin.topic),
        (PREFIX + "group", origin.group),
        (PREFIX + "partition", partition),
        (PREFIX + "position", position),
        (PREFIX + "attempts", str(attempts)),
        (PREFIX + "reason", reason),
        (PREFIX + "error", clean(error)),
        (PREFIX + "first-at", str(first_at_ms)),
        (PREFIX + "last-at", str(last_at_ms)),
    )


def clean(error: str) -> str:
    """One line of at most ERROR_BYTES bytes of UTF-8: header values of every backend can carry it."""
    line = "".join(letter if letter.isprintable() else " " for letter in error[:ERROR_BYTES])
    return line.encode("utf-8", "replace")[:ERROR_BYTES].decode("utf-8", "ignore")


def names(origin: Origin, record: Record) -> tuple[str, str, str, str]:
    """Topic, group, cluster and id, as events begin."""
    return origin.topic, origin.group, origin.cluster, message_id(origin, record)


def message_id(origin: Origin, record: Record) -> str:
    """The id that people see: `mq-id`, else the place of a foreign message (as `Message.id`)."""
    return record.id or f"{origin.cluster}:{origin.topic}:{origin.partition}:{record.ref}"
