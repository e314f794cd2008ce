"""Messages and records. The id and the content type are AMQP's own properties, all else of mqsdk is headers `mq-*`.

A foreign message (without `mq-ts`): its header `key` is the key, its `message_id` the id, its `timestamp` the time; other headers are the
user's.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from pika import spec

from mqsdk.spi import NewRecord, Record, decode_headers
from mqsdk.spi import envelope as headers

KEY, FOREIGN_KEY = "mq-key", "key"
ROUTE = "CC"  # further routing keys of a message, which the server reads: those of delays are written here
_SERVERS_TO_READ = frozenset({ROUTE, "BCC"})
PERSISTENT = 2
FRAME_END = b"\xce"
FRAME_OVERHEAD = 8
_CONTENT_TYPE_BIT, _CONTENT_ENCODING_BIT, _HEADERS_BIT = 0x80, 0x40, 0x20  # of the first byte of the flags
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 7

Delivery = tuple[int, bool, bytes, bytes]  # tag, redelivered, properties as they came, body
# What servers write into the headers of a message that comes again.
_SERVERS = frozenset(
    {"x-delivery-count", "x-acquired-count", "x-death"}
    | {f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")}
)


class RabbitRecord(Record):
    """A record over the properties of its message: they are read on the first use of one of them.

    The slots of `Record` left empty are found missing, and `__getattr__` fills them: a property would cost every access.

    What was delivered before is never `again`: a quorum queue that cannot reach a consumer for a while gives it what it holds once more,
    under another tag. What looks like the first of two is then the message itself, and must not be acknowledged before it is handled.
    """

    __slots__ = ("behind_key", "properties")

    properties: bytes
    behind_key: int  # where the properties go on behind the key, 0 where that is not known

    def __init__(self, position: int, redelivered: bool, properties: bytes, value: bytes) -> None:
        self.position = position
        self.redelivered = redelivered
        self.value = value
        self.properties = properties
        self.behind_key = 0
        if properties[0] & _HEADERS_BIT:
            key, self.behind_key = _quick_key(properties)
            if self.behind_key:
                self.key = key
                if _ATTEMPT_NAME not in properties:
                    self.attempt = 1
                self.again = not redelivered and _AGAIN_NAME in properties
        else:
            self.key = None
            self.attempt = 1
            self.again = False

    @property
    def mark(self) -> Hashable:
        """Producer and sequence as they stand there, and the id: what was delayed on another cluster comes with numbers of that one."""
        at, properties = self.behind_key, self.properties
        at_table = 3 + properties[2] if properties[0] & _CONTENT_TYPE_BIT else 2
        at_id = at_table + 5 + int.from_bytes(properties[at_table : at_table + 4], "big")  # behind the delivery mode and its own length
        at_digits = at + _TO_DIGITS
        if not at or not properties.startswith(_PID_ENTRY, at) or not at_digits < at_id < len(properties):
            return super().mark
        return properties[at : at_digits + properties[at_digits - 1]] + properties[at_id : at_id + 1 + properties[at_id]]

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        properties = spec.BasicProperties()
        properties.decode(self.properties)
        table = properties.headers or {}
        own_key = KEY if KEY in table or headers.TIMESTAMP in table else FOREIGN_KEY
        key = table.get(own_key)
        self.key = None if key is None else _raw(key)
        envelope = decode_headers(_pairs(table, own_key))
        self.id = properties.message_id or envelope.id
        self.content_type = properties.content_type or envelope.content_type
        seconds = properties.timestamp
        foreign_ms = seconds * 1000 if isinstance(seconds, int) and 0 <= seconds < 1 << 40 else None
        self.timestamp_ms = foreign_ms if envelope.timestamp_ms is None else envelope.timestamp_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        self.producer, self.sequence = envelope.producer, envelope.sequence
        self.attempt, self.due_ms, self.again = envelope.attempt, envelope.due_ms, envelope.again and not self.redelivered
        return object.__getattribute__(self, name)


def _quick_key(properties: bytes) -> tuple[bytes | None, int]:
    """(key, what stands behind it): of a message as `content_frames` writes it, without reading the whole table. 0: it is another one."""
    at = 2
    if properties[0] & _CONTENT_TYPE_BIT:
        at += 1 + properties[at]
    at += 4  # length of the table
    if properties[0] & _CONTENT_ENCODING_BIT or not properties.startswith(_TS_TEXT, at):
        return None, 0
    at += len(_TS_TEXT)
    at += 4 + int.from_bytes(properties[at : at + 4], "big")
    if not properties.startswith(_KEY_BYTES, at):
        return None, at
    at += len(_KEY_BYTES) + 4
    stop = at + int.from_bytes(properties[at - 4 : at], "big")
    return properties[at:stop], stop


def _pairs(table: dict[str, Any], own_key: str) -> Iterator[tuple[str, bytes]]:
    """Headers as the envelope reads them; an array is a name that stands there several times."""
    hidden = _SERVERS | {own_key, ROUTE} if headers.TIMESTAMP in table else _SERVERS | {own_key}
    for name, value in table.items():
        if name in hidden:
            continue
        for item in value if isinstance(value, list) else (value,):
            yield name, _raw(item)


def _raw(value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return str(value).encode()


# --- encoding -----------------------------------------------------------------------------------------------------------------------


class TooLarge(ValueError):
    """The headers do not fit into one frame."""


def publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    """The method frame of a mandatory publish: the same for all messages of one partition."""
    where, key = exchange.encode(), routing_key.encode()
    method = struct.pack(">HHHB", 60, 40, 0, len(where)) + where + bytes((len(key),)) + key + b"\x01"
    return struct.pack(">BHI", 1, channel, len(method)) + method + FRAME_END


def content_frames(channel: int, record: NewRecord, payload_max: int, route: Sequence[str] = ()) -> bytes:
    """Header and body frames of a record, as AMQP 0-9-1 (2.3.5) lays them out. Raises TooLarge, or ValueError for a name of a header.

    payload_max: bytes that fit into one frame. route: further routing keys.

    Written out because pika's own way costs three writes and 40 us per message.
    """
    flags = _HEADERS | _DELIVERY_MODE | _MESSAGE_ID
    content_type = b""
    if record.content_type is not None:
        content_type = _short(record.content_type)
        flags |= _CONTENT_TYPE
    table = _table(record)
    if route:
        table += _ROUTE_NAME + _array(route)
    value = record.value
    properties = b"".join(
        (
            struct.pack(">HHQH", 60, 0, len(value), flags), content_type, struct.pack(">I", len(table)), table,
            b"\x02", _short(record.id),
        )
    )  # fmt: skip
    if len(properties) > payload_max:
        raise TooLarge(f"the headers and the key have over {payload_max} bytes")
    head = struct.pack(">BHI", 2, channel, len(properties)) + properties + FRAME_END
    if len(value) <= payload_max:
        return head if not value else b"".join((head, struct.pack(">BHI", 3, channel, len(value)), value, FRAME_END))
    parts = [head]
    for start in range(0, len(value), payload_max):
        part = value[start : start + payload_max]
        parts += (struct.pack(">BHI", 3, channel, len(part)), part, FRAME_END)
    return b"".join(parts)


def _table(record: NewRecord) -> bytes:
    parts = [_TS_NAME, _long(str(record.timestamp_ms).encode())]
    if record.key is not None:
        parts += (_KEY_NAME, b"x", struct.pack(">I", len(record.key)), record.key)
    if record.producer:
        parts += (_PID_NAME, _long(record.producer.encode()), _SEQ_NAME, _long(str(record.sequence).encode()))
    if record.attempt > 1:
        parts += (_ATTEMPT_NAME, _long(str(record.attempt).encode()))
    if record.due_ms is not None:
        parts += (_DUE_NAME, _long(str(record.due_ms).encode()))
    if record.again:
        parts += (_AGAIN_NAME, _long(b"1"))
    if record.extra or record.headers:
        for name, values in _grouped(record).items():
            parts.append(_short(name))
            parts.append(_long(values[0].encode()) if len(values) == 1 else _array(values))
    return b"".join(parts)


def _array(values: Sequence[str]) -> bytes:
    array = b"".join(_long(value.encode()) for value in values)
    return b"A" + struct.pack(">I", len(array)) + array


def _grouped(record: NewRecord) -> dict[str, list[str]]:
    """A table holds a name once: values of one name become an array."""
    found: dict[str, list[str]] = {}
    for name, value in (*record.extra, *record.headers):
        if name in _SERVERS_TO_READ:
            raise ValueError("the headers CC and BCC are RabbitMQ's own: it would route by them")
        found.setdefault(name, []).append(value)
    return found


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError("a name of a header, a content type or an id has over 255 bytes")
    return bytes((len(raw),)) + raw


def _long(raw: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(raw)) + raw


_TS_NAME, _KEY_NAME, _PID_NAME, _SEQ_NAME, _ATTEMPT_NAME, _DUE_NAME, _AGAIN_NAME, _ROUTE_NAME = (
    _short(name)
    for name in (headers.TIMESTAMP, KEY, headers.PRODUCER, headers.SEQUENCE, headers.ATTEMPT, headers.DUE, headers.AGAIN, ROUTE)
)
_PID_SIZE = 16  # as our own publishers write it
_PID_ENTRY = _PID_NAME + b"S" + struct.pack(">I", _PID_SIZE)
_TO_DIGITS = len(_PID_ENTRY) + _PID_SIZE + len(_SEQ_NAME) + 5  # from the entry of the producer to the digits of the sequence
_TS_TEXT, _KEY_BYTES = _TS_NAME + b"S", _KEY_NAME + b"x"
