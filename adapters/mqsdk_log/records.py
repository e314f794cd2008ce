"""Records between mqsdk and the engine: what is a field of the batch, what is in the block of headers, and how both are made cheaply.

The batch carries time, attempt, producer (u64) and sequence (u32). The block carries `mq-id` first, then what else there is. A producer
that is not 16 hexadecimal digits, or a sequence over 32 bits, goes into the block instead.
"""

from __future__ import annotations

import re
from struct import Struct

from mqsdk.spi import NewRecord, Record, decode_headers
from mqsdk.spi.envelope import CONTENT_TYPE, DUE, ID, PRODUCER, SEQUENCE
from mqsdk_log.engine import errors as engine
from mqsdk_log.engine import format as layout

_HEX = re.compile(r"[0-9a-f]{16}", re.ASCII)
_ID_ENTRY = Struct("<HHI")  # count of the block, then the lengths of the first name and value
_ID_NAME = ID.encode()
_AFTER_NAME = _ID_ENTRY.size + len(_ID_NAME)
_CACHED = 256
MAX_ATTEMPT = 0xFFFF  # what the batch's field holds; higher counts are stored as this


class LogRecord(Record):
    """A record as the reader builds it. The reader stores what the batch says; every other field is decoded from `block` on first use.

    The slots of `Record` that the reader leaves empty are found missing, and `__getattr__` fills them: a property would cost every access.
    """

    __slots__ = ("block", "producer_id")

    block: bytes
    producer_id: int
    __init__ = object.__init__  # the reader stores every field itself, after a bare call of the class

    def __getattr__(self, name: str) -> object:
        if name in ("redelivered", "again"):
            self.redelivered = self.again = False
        elif name == "id" and (found := _id_of(self.block)) is not None:
            self.id = found
        elif name in Record.__slots__:
            self._decode()
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return object.__getattribute__(self, name)

    def _decode(self) -> None:
        try:
            pairs = [(name.decode("utf-8", "surrogateescape"), value) for name, value in layout.decode_headers(self.block)]
        except engine.CorruptBatch:
            pairs = []  # the body's checksum was right, so this is how it was written: a foreign block, read as none
        envelope = decode_headers(pairs)
        self.id, self.content_type, self.due_ms = envelope.id, envelope.content_type, envelope.due_ms
        self.headers, self.extra = envelope.headers, envelope.extra
        if self.producer_id:
            self.producer = f"{self.producer_id:016x}"
        else:
            self.producer, self.sequence = envelope.producer, envelope.sequence


def _id_of(block: bytes) -> str | None:
    """The id where it stands first, as we write it: no need to take the whole block apart."""
    if len(block) < _AFTER_NAME:
        return None
    _, name_size, size = _ID_ENTRY.unpack_from(block)
    if name_size != len(_ID_NAME) or block[_ID_ENTRY.size : _AFTER_NAME] != _ID_NAME or not size:
        return None
    return block[_AFTER_NAME : _AFTER_NAME + size].decode("utf-8", "surrogateescape")


class Blocks:
    """Makes the blocks of headers. What is the same for many messages is made once; any thread (a lost entry is made again)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, int], tuple[bytes, bytes]] = {}

    def around(self, content_type: str | None, id_size: int) -> tuple[bytes, bytes]:
        """What stands before and after an id of so many bytes, in a block that holds nothing but id and content type."""
        found = self._known.get((content_type, id_size))
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            rest = [] if content_type is None else [(CONTENT_TYPE.encode(), content_type.encode())]
            found = self._known[content_type, id_size] = _around(id_size, rest)
        return found

    def of(self, record: NewRecord, in_block: bool) -> bytes:
        """The block of any record. in_block: producer and sequence are headers, because the batch cannot carry them."""
        id_text = record.id.encode()
        head, tail = _around(len(id_text), _rest(record, in_block))
        return head + id_text + tail


def _around(id_size: int, rest: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """What stands before and after the id."""
    head = _ID_ENTRY.pack(len(rest) + 1, len(_ID_NAME), id_size) + _ID_NAME
    return head, layout.encode_headers(rest)[2:]


def _rest(record: NewRecord, in_block: bool) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[str, str]] = []
    if record.content_type is not None:
        pairs.append((CONTENT_TYPE, record.content_type))
    if in_block:
        pairs += [(PRODUCER, record.producer), (SEQUENCE, str(record.sequence))]
    if record.due_ms is not None:
        pairs.append((DUE, str(record.due_ms)))
    pairs += record.extra
    pairs += record.headers
    return [(name.encode(), value.encode()) for name, value in pairs]


def producer_number(producer: str) -> int:
    """The u64 of a producer's 16 hexadecimal digits; 0 when it is written in another way, or is none."""
    return int(producer, 16) if _HEX.fullmatch(producer) else 0
