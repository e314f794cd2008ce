"""Records of Kafka as records of mqsdk, and the other way round. The body and the key are Kafka's value and key, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mqsdk.spi import NewRecord, Record, decode_headers
from mqsdk.spi import envelope as headers

PairHeaders = Sequence[tuple[str, bytes | None]]


class KafkaRecord(Record):
    """A record over what the client read: headers are decoded on the first use of one of them.

    The slots of `Record` left empty are found missing, and `__getattr__` fills them: a property would cost every access.
    A tombstone (no value) reads as an empty payload.
    """

    __slots__ = ("raw", "stamp")

    raw: PairHeaders
    stamp: int

    def __init__(self, position: int, key: bytes | None, value: bytes | None, raw: PairHeaders, stamp: int) -> None:
        self.position = position
        self.key = key
        self.value = value if value is not None else b""
        self.raw = raw
        self.stamp = stamp
        self.redelivered = False
        # Asked of every record, while the rest of the headers may never be.
        for name, _ in raw:
            if name == headers.ATTEMPT:
                break
        else:
            self.attempt = 1

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        envelope = decode_headers((key, value if value is not None else b"") for key, value in self.raw)
        self.id, self.content_type = envelope.id, envelope.content_type
        self.timestamp_ms = (self.stamp if self.stamp >= 0 else None) if envelope.timestamp_ms is None else envelope.timestamp_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        self.producer, self.sequence = envelope.producer, envelope.sequence
        self.attempt, self.due_ms = envelope.attempt, envelope.due_ms
        return object.__getattribute__(self, name)


def headers_of(record: NewRecord) -> list[tuple[str, bytes]]:
    """What `spi.encode_headers` says, without a list of texts between: this runs once per publish."""
    pairs = [(headers.ID, record.id.encode()), (headers.TIMESTAMP, b"%d" % record.timestamp_ms), _VERSION]
    if record.producer:
        pairs += (headers.PRODUCER, record.producer.encode()), (headers.SEQUENCE, b"%d" % record.sequence)
    if record.attempt > 1:
        pairs.append((headers.ATTEMPT, b"%d" % record.attempt))
    if record.due_ms is not None:
        pairs.append((headers.DUE, b"%d" % record.due_ms))
    if record.content_type is not None:
        pairs.append((headers.CONTENT_TYPE, record.content_type.encode()))
    for name, value in (*record.extra, *record.headers):
        pairs.append((name, value.encode()))
    return pairs


_VERSION = (headers.VERSION, headers.ENVELOPE_VERSION.encode())
