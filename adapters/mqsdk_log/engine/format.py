"""Every byte of the log, and nothing but bytes: no file, no lock, no clock. docs/native-log.md draws what is packed here.

All integers are little-endian. A batch is a 64-byte header and a body; the body is a table of fixed-width entries, then the bytes of the
records. Two checksums: the header's covers the base offset and is seeded with the segment's salt, so a batch of another segment never
validates; the body's is computed outside the lock. A field of a header may be used only after its checksum was checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple, TypeVar

from .errors import CorruptBatch, TooLarge, UnsupportedVersion

MAJOR, MINOR = 1, 0
SEGMENT_MAGIC = b"MQSDKLOG"
BATCH_MAGIC = b"MQB1"
BATCH_MAGIC_WORD = int.from_bytes(BATCH_MAGIC, "little")
SEGMENT_HEADER_SIZE = 64
HEADER_SIZE = 64
META_SIZE = 20
WORD_META_SIZE = 28  # an entry with a u64 of the engine's own behind it
NULL = 0xFFFFFFFF
WRITE_LIMIT = 1 << 20  # a write of up to 1 MiB was never torn by kill -9 in 1,350 trials, 8 MiB in 104 of 150
BATCH_LIMIT = 8 << 20
CODEC_MASK, CODEC_NONE, CODEC_ZLIB = 0b111, 0, 1
CONTROL = 1 << 4
KNOWN_ATTRIBUTES = CODEC_MASK | CONTROL
JUMP = 1  # flag of a segment: offsets between the one before and this one were left out on purpose
NO_HEADERS = b""

_SEGMENT = Struct("<8sHHIQQ16sIII")
HEADER = Struct("<IIIIQqqIHHQII")
HEADER_TAIL = Struct("<IIQqqIHHQII")  # what the header checksum covers
HEADER_HEAD = Struct("<II")
META = Struct("<iIIIHH")
META_WORD = Struct("<iIIIHHQ")
_U32 = Struct("<I")
_BLOCK_COUNT = Struct("<H")
_BLOCK_ENTRY = Struct("<HI")

crc32 = zlib.crc32

Fields = tuple[int, ...]  # what HEADER unpacks to: 13 integers
NewRecord = tuple[bytes | None, bytes, bytes, int, int, int]  # key, headers block, value, timestamp delta ms, flags, attempt
R = TypeVar("R")

# Places in the tuple that `HEADER` unpacks to.
BODY_LENGTH, COUNT, BASE_OFFSET, BASE_TIMESTAMP, MAX_TIMESTAMP, BODY_CRC, ATTRIBUTES, WIDTH = 2, 3, 4, 5, 6, 7, 8, 9


class SegmentHeader(NamedTuple):
    """First 64 bytes of a segment. created_ms: when it was made, which bounds the time of the segment before it."""

    salt: int
    base_offset: int
    created_ms: int
    topic_uuid: bytes
    partition: int
    flags: int = 0
    major: int = MAJOR
    minor: int = MINOR


def encode_segment_header(header: SegmentHeader) -> bytes:
    packed = _SEGMENT.pack(
        SEGMENT_MAGIC, header.major, header.minor, header.salt, header.base_offset, header.created_ms,
        header.topic_uuid, header.partition, header.flags, 0,
    )  # fmt: skip
    return packed + _U32.pack(crc32(packed))


def decode_segment_header(data: bytes) -> SegmentHeader:
    """Raises CorruptBatch for anything but a whole valid header, UnsupportedVersion for another major version."""
    if len(data) < SEGMENT_HEADER_SIZE or data[:8] != SEGMENT_MAGIC:
        raise CorruptBatch("no segment header")
    if _U32.unpack_from(data, 60)[0] != crc32(data[:60]):
        raise CorruptBatch("segment header fails its checksum")
    _, major, minor, salt, base, created, uuid, partition, flags, _ = _SEGMENT.unpack_from(data)
    if major != MAJOR:
        raise UnsupportedVersion("segment format", f"{major}.{minor}", f"{MAJOR}.x")
    return SegmentHeader(salt, base, created, uuid, partition, flags, major, minor)


# --- batches ------------------------------------------------------------------------------------------------------------------


class Body(NamedTuple):
    """An encoded body before it has an offset. span: the highest timestamp delta in it, ms. width: size of an entry of its table."""

    data: bytes
    records: int
    span: int
    width: int = META_SIZE


def encode_body(records: Sequence[NewRecord]) -> Body:
    """Meta table, then key, headers and value of each record. TooLarge over 8 MiB; ValueError for no record or a bad number."""
    data, count, span = encode_records(records)
    if len(data) > BATCH_LIMIT:
        raise TooLarge(f"a batch of {len(data)} bytes is over the limit of {BATCH_LIMIT}")
    return Body(data, count, span)


def encode_records(records: Sequence[NewRecord]) -> tuple[bytes, int, int]:
    """(body, number of records, highest timestamp delta), of any length. A plain tuple and a way for the lone record: the publish path."""
    try:
        if len(records) == 1:
            key, block, value, delta, flags, attempt = records[0]
            if key is None:
                return b"".join((META.pack(delta, len(value), 0xFFFFFFFF, len(block), flags, attempt), block, value)), 1, delta
            return b"".join((META.pack(delta, len(value), len(key), len(block), flags, attempt), key, block, value)), 1, delta
        if not records:
            raise ValueError("an append needs at least one record")
        return _encode_many(records)
    except struct_error as error:
        raise ValueError(f"a number of the record does not fit its field: {error}") from None


def _encode_many(records: Sequence[NewRecord]) -> tuple[bytes, int, int]:
    table: list[bytes] = []
    data: list[bytes] = []
    pack, entry, put = META.pack, table.append, data.append
    span = -0x80000000
    for key, block, value, delta, flags, attempt in records:
        if key is None:
            entry(pack(delta, len(value), 0xFFFFFFFF, len(block), flags, attempt))
        else:
            entry(pack(delta, len(value), len(key), len(block), flags, attempt))
            put(key)
        if block:
            put(block)
        put(value)
        if delta > span:
            span = delta
    table += data
    return b"".join(table), len(records), span


def encode_with_words(records: Sequence[NewRecord], words: Sequence[int], span: int | None = None) -> Body:
    """As `encode_body`, each entry with a u64 that `decode_words` gives back and readers step over. span: another than the records'."""
    table: list[bytes] = []
    data: list[bytes] = []
    try:
        for (key, block, value, delta, flags, attempt), word in zip(records, words, strict=True):
            key_size = NULL if key is None else len(key)
            table.append(META_WORD.pack(delta, len(value), key_size, len(block), flags, attempt, word))
            data += (key or b"", block, value)
    except struct_error as error:
        raise ValueError(f"a number of the record does not fit its field: {error}") from None
    table += data
    body = b"".join(table)
    if len(body) > BATCH_LIMIT:
        raise TooLarge(f"a batch of {len(body)} bytes is over the limit of {BATCH_LIMIT}")
    return Body(body, len(records), max(record[3] for record in records) if span is None else span, WORD_META_SIZE)


def decode_words(body: bytes, header: Fields) -> list[tuple[int, int]]:
    """(word, length of the value) of every record; none where the entries carry no words. CorruptBatch when the table is too long."""
    count, width = header[COUNT], header[WIDTH]
    if width < WORD_META_SIZE:
        return []
    if count * width > len(body):
        raise CorruptBatch("the table of a batch is longer than its body")
    entries: Iterable[tuple[int, ...]]
    if width == WORD_META_SIZE:
        entries = META_WORD.iter_unpack(memoryview(body)[: count * width])
    else:
        entries = [META_WORD.unpack_from(body, at) for at in range(0, count * width, width)]
    return [(word, 0 if size == NULL else size) for _, size, _, _, _, _, word in entries]


def encode_header(body: Body, base_offset: int, salt: int, stamp: tuple[int, int, int, int], body_crc: int | None = None) -> bytes:
    """stamp: base timestamp ms, highest timestamp so far ms, producer id, producer sequence of the first record."""
    base_ms, newest_ms, producer, sequence = stamp
    crc = crc32(body.data) if body_crc is None else body_crc
    tail = HEADER_TAIL.pack(len(body.data), body.records, base_offset, base_ms, newest_ms, crc, 0, body.width, producer, sequence, 0)
    return HEADER_HEAD.pack(BATCH_MAGIC_WORD, crc32(tail, salt)) + tail


def parse_header(data: bytes, at: int, salt: int) -> Fields:
    """The checked header at `at`, or CorruptBatch; UnsupportedVersion for attributes of a later version."""
    if len(data) - at < HEADER_SIZE:
        raise CorruptBatch("a batch header is cut short")
    fields: Fields = HEADER.unpack_from(data, at)
    if fields[0] != BATCH_MAGIC_WORD or fields[1] != crc32(data[at + 8 : at + 64], salt):
        raise CorruptBatch("a batch header fails its checksum")
    if fields[3] < 1 or fields[2] > BATCH_LIMIT or fields[9] < META_SIZE or fields[3] * fields[9] > max(fields[2], fields[12]):
        raise CorruptBatch("a batch header contradicts itself")
    return fields


def check_supported(fields: Fields) -> None:
    attributes = fields[8]
    if attributes & ~KNOWN_ATTRIBUTES or attributes & CODEC_MASK > CODEC_ZLIB:
        raise UnsupportedVersion("batch attributes", f"{attributes:#06x}", f"{KNOWN_ATTRIBUTES:#06x} with codec 0 or 1")


def open_body(stored: bytes, fields: Fields) -> bytes:
    """The body as encoded: checked, and inflated where a codec was used. CorruptBatch, UnsupportedVersion."""
    if crc32(stored) != fields[7]:
        raise CorruptBatch("a batch body fails its checksum")
    if not fields[8]:
        return stored
    check_supported(fields)
    if fields[8] & CODEC_MASK == CODEC_NONE:
        return stored
    if fields[12] > BATCH_LIMIT:
        raise CorruptBatch("a compressed batch is over the limit")
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(stored, fields[12] + 1)  # bounded: a few bytes must not inflate without end
    except zlib.error:
        raise CorruptBatch("a compressed batch cannot be inflated") from None
    if len(body) != fields[12]:
        raise CorruptBatch("a compressed batch has another length than it says")
    return body


def decode_batch(body: bytes, header: Fields, wanted_offset: int, cls: type[R]) -> list[R]:
    """The records of a batch from `wanted_offset` on. `body` comes from `open_body`.

    Each record is a bare `cls()` with exactly these attributes stored: position (offset), key (None: null), value, timestamp_ms, attempt
    (as stored), block (headers, for `decode_headers`), producer_id, and where that is not 0 sequence (the batch's + index).
    Slot stores on a bare object cost 1.28 times less than a constructor of as many arguments. A null value is read as b"".
    Raises CorruptBatch when the entries do not add up to the body.
    """
    _, _, _, count, position, base_ms, _, _, attributes, width, producer, sequence, _ = header
    at = count * width
    if width < META_SIZE or at > len(body):
        raise CorruptBatch("the table of a batch is longer than its body")
    if attributes & CONTROL:
        return []  # markers for the engine itself; nothing for a consumer
    if count == 1:
        return [_decode_lone(body, header, cls)] if position >= wanted_offset else []
    entries: Iterable[tuple[Any, ...]]
    if width == META_SIZE:
        entries = META.iter_unpack(memoryview(body)[:at])
    else:
        entries = [META.unpack_from(body, place) for place in range(0, at, width)]
    records: list[R] = []
    put = records.append
    record: Any
    for delta, value_size, key_size, block_size, _flags, attempt in entries:
        record = cls()
        if key_size == 0xFFFFFFFF:
            record.key = None
        else:
            start = at
            at += key_size
            record.key = body[start:at]
        if block_size:
            start = at
            at += block_size
            record.block = body[start:at]
        else:
            record.block = b""
        if value_size == 0xFFFFFFFF:
            record.value = b""
        else:
            start = at
            at += value_size
            record.value = body[start:at]
        record.position = position
        record.timestamp_ms = base_ms + delta
        record.attempt = attempt
        record.producer_id = producer
        if producer:
            record.sequence = sequence
        position += 1
        sequence += 1
        put(record)
    if at != len(body):
        raise CorruptBatch("the entries of a batch do not add up to its body")
    skip = wanted_offset - header[4]
    return records[skip:] if skip > 0 else records


def _decode_lone(body: bytes, header: Fields, cls: type[R]) -> R:
    """The only record of a batch: half the time of the loop, and what single publishes leave in the log."""
    delta, value_size, key_size, block_size, _flags, attempt = META.unpack_from(body)
    record: Any = cls()
    start = at = header[9]
    if key_size == NULL:
        record.key = None
    else:
        at += key_size
        record.key = body[start:at]
    start = at
    at += block_size
    record.block = body[start:at]
    start = at
    if value_size != NULL:
        at += value_size
    record.value = body[start:at]
    record.position = header[4]
    record.timestamp_ms = header[5] + delta
    record.attempt = attempt
    producer = record.producer_id = header[10]
    if producer:
        record.sequence = header[11]
    if at != len(body):
        raise CorruptBatch("the entry of a batch does not add up to its body")
    return record  # type: ignore[no-any-return]


def first_at_or_after(body: bytes, header: Fields, time_ms: int) -> int | None:
    """Offset of the batch's first record whose timestamp is at or after `time_ms`. CorruptBatch when the table is longer than the body."""
    if header[9] < META_SIZE or header[3] * header[9] > len(body):
        raise CorruptBatch("the table of a batch is longer than its body")
    for index in range(header[3]):
        delta: int = META.unpack_from(body, index * header[9])[0]
        if header[5] + delta >= time_ms:
            return header[4] + index
    return None


# --- headers of a record ------------------------------------------------------------------------------------------------------


def encode_headers(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """u16 count, then u16 length of the name, u32 length of the value, name, value of each. No pairs: b""."""
    if not pairs:
        return NO_HEADERS
    parts = [_BLOCK_COUNT.pack(len(pairs))]
    for name, value in pairs:
        parts += (_BLOCK_ENTRY.pack(len(name), len(value)), name, value)
    return b"".join(parts)


def decode_headers(block: bytes) -> list[tuple[bytes, bytes]]:
    """The pairs of a block; CorruptBatch when it is not one."""
    if not block:
        return []
    pairs = []
    at = 2
    try:
        for _ in range(_BLOCK_COUNT.unpack_from(block)[0]):
            name_size, value_size = _BLOCK_ENTRY.unpack_from(block, at)
            middle = at + 6 + name_size
            pairs.append((block[at + 6 : middle], block[middle : middle + value_size]))
            at = middle + value_size
    except struct_error:
        raise CorruptBatch("a block of headers is cut short") from None
    if at != len(block):
        raise CorruptBatch("a block of headers does not add up")
    return pairs
