"""Where dead letters go and what they say about themselves."""

from __future__ import annotations

from mqsdk.core.actions import Spec
from mqsdk.message import Origin
from mqsdk.spi.events import Record

ERROR_BYTES = 1024
PREFIX = "mq-dlq-"


def topic(spec: Spec) -> str:
    """`<topic>.<group>.dlq`, or what the declaration names."""
    return spec.dead_letter or f"{spec.topic}.{spec.group}.dlq"


def headers(
    origin: Origin, record: Record, *, attempts: int, reason: str, error: str, first_at_ms: int, last_at_ms: int
) -> tuple[tuple[str, str], ...]:
    """The `mq-dlq-*` headers. attempts: failed ones, the last included. Times: milliseconds since 1970, of the first and last failure."""
    return (
        (PREFIX + "topic", origin.topic),
        (PREFIX + "group", origin.group),
        (PREFIX + "partition", str(origin.partition)),
        (PREFIX + "position", record.ref),
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


def message_id(origin: Origin, record: Record) -> str:
    """The id that people see: `mq-id`, else the place of a foreign message (as `Message.id`)."""
    return record.id or f"{origin.cluster}:{origin.topic}:{origin.partition}:{record.ref}"
