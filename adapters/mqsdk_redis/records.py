"""Entries and records. An entry is `body`, `mq-key` where there is a key, `mq`, the other headers of mqsdk, then the user's headers.

`mq` is `1 <mq-id> <mq-ts> <mq-pid> <mq-seq>`, and the content type behind it where there is one: each field of an entry costs the server
and the reader more than what is in it. These may also stand as headers of their own. An entry with neither `mq` nor `mq-id` is foreign:
its field `body` is the payload, `key` the key, all others are headers; a lone field is the payload whatever its name.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from mqsdk.spi import NewRecord, Record, decode_headers, encode_headers
from mqsdk.spi import envelope as headers
from mqsdk_redis.ids import clock_ms, shown

BODY, KEY, FOREIGN_KEY, PACKED, ID = b"body", b"mq-key", b"key", headers.PACKED.encode(), headers.ID.encode()
_ATTEMPT, _AGAIN = headers.ATTEMPT.encode(), headers.AGAIN.encode()


class RedisRecord(Record):
    """A record over the fields of its entry: headers are decoded on the first use of one of them.

    The slots of `Record` left empty are found missing, and `__getattr__` fills them: a property would cost every access.
    """

    __slots__ = ("packed", "rest")

    packed: bytes
    rest: Sequence[bytes]

    def __init__(self, position: int, fields: Sequence[bytes], redelivered: bool = False) -> None:
        self.position = position
        self.redelivered = redelivered
        if len(fields) == 4 and fields[2] == PACKED and fields[0] == BODY and headers.is_packed(fields[3]):
            self.value, self.packed, self.rest = fields[1], fields[3], ()
            self.key = None
            self.attempt = 1
            self.again = False
        else:
            self.key, self.value, self.packed, self.rest = _taken_apart(fields)
            if _ATTEMPT not in self.rest:
                self.attempt = 1
            self.again = _AGAIN in self.rest

    @property
    def mark(self) -> Hashable:
        return self.packed or super().mark

    @property
    def ref(self) -> str:
        return shown(self.position)

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        envelope = decode_headers(self._headers())
        self.id, self.content_type = envelope.id, envelope.content_type
        self.timestamp_ms = clock_ms(self.position) if envelope.timestamp_ms is None else envelope.timestamp_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        self.producer, self.sequence = envelope.producer, envelope.sequence
        self.attempt, self.due_ms, self.again = envelope.attempt, envelope.due_ms, envelope.again
        return object.__getattribute__(self, name)

    def _headers(self) -> Iterator[tuple[str, bytes]]:
        rest = self.rest
        if self.packed:
            yield from headers.unpack(self.packed)
        for at in range(0, len(rest) - 1, 2):
            yield rest[at].decode("utf-8", "surrogateescape"), rest[at + 1]


def _taken_apart(fields: Sequence[bytes]) -> tuple[bytes | None, bytes, bytes, Sequence[bytes]]:
    """(key, payload, `mq` or b"", other headers) of an entry in any shape."""
    at = 4 if len(fields) >= 6 and fields[2] == KEY else 2
    if len(fields) >= at + 2 and fields[0] == BODY and fields[at] == PACKED and headers.is_packed(fields[at + 1]):
        return fields[3] if at == 4 else None, fields[1], fields[at + 1], fields[at + 2 :]
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    # The first of the two that comes: a header of the user may be called `mq`, and ours stand before it.
    mark = next((at for at, (name, item) in enumerate(pairs) if name == ID or (name == PACKED and headers.is_packed(item))), None)
    if mark is None and len(pairs) == 1:
        return None, pairs[0][1], b"", ()
    packed = pairs.pop(mark)[1] if mark is not None and pairs[mark][0] == PACKED else b""
    key_name = FOREIGN_KEY if mark is None else KEY
    found: dict[bytes, bytes] = {}
    rest: list[bytes] = []
    for name, item in pairs:  # the first of each name that means something; further ones are headers
        if name in (BODY, key_name) and name not in found:
            found[name] = item
        else:
            rest += (name, item)
    return found.get(key_name), found.get(BODY, b""), packed, rest


def fields_of(record: NewRecord) -> list[bytes]:
    """The entry of a record: names and values in turn."""
    fields = [BODY, record.value]
    if record.key is not None:
        fields += (KEY, record.key)
    packed = headers.pack(record)
    if packed is None:
        pairs = encode_headers(record)
    else:
        fields += (PACKED, packed)
        pairs = headers.encode_rest(record)
    for name, value in pairs:
        fields += (name.encode(), value)
    return fields
