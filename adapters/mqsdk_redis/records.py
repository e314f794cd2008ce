"""Entries and records. An entry is `body`, `mq-key` where there is a key, `mq-id`, the other headers of mqsdk, then the user's headers.

A foreign entry (without `mq-id`): its field `body` is the payload, `key` the key, all others are headers; a lone field is the payload
whatever its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mqsdk.spi import NewRecord, Record, decode_headers
from mqsdk.spi import envelope as headers
from mqsdk_redis.ids import clock_ms, shown

BODY, KEY, FOREIGN_KEY, ID = b"body", b"mq-key", b"key", headers.ID.encode()
_TIMESTAMP, _VERSION, _PRODUCER, _SEQUENCE, _ATTEMPT, _DUE, _CONTENT_TYPE = (
    name.encode()
    for name in (headers.TIMESTAMP, headers.VERSION, headers.PRODUCER, headers.SEQUENCE, headers.ATTEMPT, headers.DUE, headers.CONTENT_TYPE)
)
_ENVELOPE_VERSION = headers.ENVELOPE_VERSION.encode()


class RedisRecord(Record):
    """A record over the fields of its entry: headers are decoded on the first use of one of them.

    The slots of `Record` left empty are found missing, and `__getattr__` fills them: a property would cost every access.
    """

    __slots__ = ("rest",)

    rest: Sequence[bytes]

    def __init__(self, position: int, fields: Sequence[bytes], redelivered: bool = False) -> None:
        self.position = position
        self.redelivered = redelivered
        if len(fields) >= 4 and fields[0] == BODY and fields[2] == ID:
            self.key, self.value, self.rest = None, fields[1], fields[2:]
        elif len(fields) >= 6 and fields[0] == BODY and fields[2] == KEY:
            self.key, self.value, self.rest = fields[3], fields[1], fields[4:]
        else:
            self.key, self.value, self.rest = _foreign(fields)
        if _ATTEMPT not in self.rest:
            self.attempt = 1

    @property
    def ref(self) -> str:
        return shown(self.position)

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        rest = self.rest
        envelope = decode_headers((rest[at].decode("utf-8", "surrogateescape"), rest[at + 1]) for at in range(0, len(rest) - 1, 2))
        self.id, self.content_type = envelope.id, envelope.content_type
        self.timestamp_ms = clock_ms(self.position) if envelope.timestamp_ms is None else envelope.timestamp_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        self.producer, self.sequence = envelope.producer, envelope.sequence
        self.attempt, self.due_ms = envelope.attempt, envelope.due_ms
        return object.__getattribute__(self, name)


def _foreign(fields: Sequence[bytes]) -> tuple[bytes | None, bytes, Sequence[bytes]]:
    """(key, payload, headers) of an entry in any shape."""
    ours = ID in fields[::2]
    key_name = KEY if ours else FOREIGN_KEY
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    if len(pairs) == 1 and not ours:
        return None, pairs[0][1], ()
    value, key = b"", None
    rest: list[bytes] = []
    seen: set[bytes] = set()
    for name, item in pairs:
        if name in (BODY, key_name) and name not in seen:
            seen.add(name)
            value, key = (item, key) if name == BODY else (value, item)
        else:
            rest += (name, item)
    return key, value, rest


def fields_of(record: NewRecord) -> list[bytes]:
    """The entry of a record: names and values in turn. The headers are those of `spi.encode_headers`, without a list of pairs between."""
    fields = [BODY, record.value]
    if record.key is not None:
        fields += (KEY, record.key)
    fields += (ID, record.id.encode(), _TIMESTAMP, b"%d" % record.timestamp_ms, _VERSION, _ENVELOPE_VERSION)
    if record.producer:
        fields += (_PRODUCER, record.producer.encode(), _SEQUENCE, b"%d" % record.sequence)
    if record.attempt > 1:
        fields += (_ATTEMPT, b"%d" % record.attempt)
    if record.due_ms is not None:
        fields += (_DUE, b"%d" % record.due_ms)
    if record.content_type is not None:
        fields += (_CONTENT_TYPE, record.content_type.encode())
    for name, value in (*record.extra, *record.headers):
        fields += (name.encode(), value.encode())
    return fields
