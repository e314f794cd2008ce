"""Records of Kafka as records of mqsdk, and the other way round. The body and the key are Kafka's value and key, byte for byte."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from mqsdk.spi import NewRecord, Record, decode_headers, encode_headers
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
        # These are asked of every record, while the rest of the headers may never be.
        names = {name for name, _ in raw}
        if headers.ATTEMPT not in names:
            self.attempt = 1
        self.again = headers.AGAIN in names

    @property
    def mark(self) -> Hashable:
        return self.raw[0][1] if self.raw and self.raw[0][0] == headers.PACKED else super().mark

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        envelope = decode_headers(self._headers())
        self.id, self.content_type = envelope.id, envelope.content_type
        self.timestamp_ms = (self.stamp if self.stamp >= 0 else None) if envelope.timestamp_ms is None else envelope.timestamp_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        self.producer, self.sequence = envelope.producer, envelope.sequence
        self.attempt, self.due_ms, self.again = envelope.attempt, envelope.due_ms, envelope.again
        return object.__getattribute__(self, name)

    def _headers(self) -> Iterator[tuple[str, bytes]]:
        for place, (name, value) in enumerate(self.raw):
            if place == 0 and name == headers.PACKED and value is not None and headers.is_packed(value):
                yield from headers.unpack(value)
            else:
                yield name, value if value is not None else b""


def headers_of(record: NewRecord) -> list[tuple[str, bytes]]:
    """Those that every message has as one: reading a header costs the client a third of what it takes for the rest of a message."""
    packed = headers.pack(record)
    return encode_headers(record) if packed is None else [(headers.PACKED, packed), *headers.encode_rest(record)]
