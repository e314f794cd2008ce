"""The bytes of format 1. These numbers are a promise to every log ever written: a change here is a new version of the format."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptBatch, LogError, TooLarge, UnsupportedVersion
from mqsdk_log.engine.reader import LogRecord

SALT = 0x01020304
HEADER = fmt.SegmentHeader(SALT, 7, 1_700_000_000_000, bytes(range(16)), 3)

sizes = st.binary(max_size=40)
record = st.tuples(
    st.none() | sizes, sizes, sizes, st.integers(-(2**31), 2**31 - 1), st.integers(0, 65535), st.integers(0, 65535)
)  # fmt: skip


def make_batch(records: list[Any], base: int = 10, stamp: tuple[int, int, int, int] = (1000, 1005, 9, 30)) -> bytes:
    body = fmt.encode_body(records)
    return fmt.encode_header(body, base, SALT, stamp) + body.data


def remake(batch: bytes, **changes: int) -> bytes:
    """The batch with fields of its header changed and all checksums made right again."""
    names = ("length", "count", "base", "ms", "newest", "crc", "attributes", "width", "producer", "sequence", "plain")
    values = dict(zip(names, fmt.HEADER_TAIL.unpack_from(batch, 8), strict=True)) | changes
    tail = fmt.HEADER_TAIL.pack(*values.values())
    return fmt.HEADER_HEAD.pack(fmt.BATCH_MAGIC_WORD, zlib.crc32(tail, SALT)) + tail + batch[64:]


def decode(batch: bytes, wanted: int = 0) -> list[LogRecord]:
    fields = fmt.parse_header(batch, 0, SALT)
    return fmt.decode_batch(fmt.open_body(batch[64:], fields), fields, wanted, LogRecord)


def test_a_segment_header_is_these_64_bytes() -> None:
    packed = fmt.encode_segment_header(HEADER)
    assert packed[:60].hex() == (
        "4d5153444b4c4f47" "0100" "0000" "04030201" "0700000000000000" "0068e5cf8b010000"
        "000102030405060708090a0b0c0d0e0f" "03000000" "00000000" "00000000"
    )  # fmt: skip
    assert packed[60:] == struct.pack("<I", zlib.crc32(packed[:60]))
    assert fmt.decode_segment_header(packed) == HEADER


def test_a_batch_is_a_64_byte_header_a_table_and_the_bytes() -> None:
    batch = make_batch([(b"k", b"", b"value", 5, 0, 1), (None, b"", b"", -1, 2, 3)])
    body = bytes.fromhex("0500000005000000010000000000000000000100ffffffff00000000ffffffff0000000002000300") + b"kvalue"
    tail = struct.pack("<IIQqqIHHQII", 46, 2, 10, 1000, 1005, zlib.crc32(body), 0, 20, 9, 30, 0)
    assert batch == b"MQB1" + struct.pack("<I", zlib.crc32(tail, SALT)) + tail + body
    assert len(tail) == 56


def test_a_block_of_headers_is_counted_and_length_prefixed() -> None:
    pairs = [(b"name", b"value"), (b"", b"")]
    block = fmt.encode_headers(pairs)
    assert block == bytes.fromhex("0200040005000000") + b"namevalue" + bytes.fromhex("000000000000")
    assert fmt.decode_headers(block) == pairs
    assert fmt.encode_headers([]) == b""
    assert fmt.decode_headers(b"") == []


@pytest.mark.parametrize("block", [b"\1", b"\1\0", b"\1\0\5\0\0\0\0\0ab", b"\0\0x", b"\xff\xff" + bytes(6)])
def test_a_broken_block_of_headers_is_named(block: bytes) -> None:
    with pytest.raises(CorruptBatch):
        fmt.decode_headers(block)


@given(st.lists(record, min_size=1, max_size=12), st.integers(0, 2**40))
@settings(deadline=None)
def test_what_is_encoded_is_decoded(records: list[Any], base: int) -> None:
    found = decode(make_batch(records, base))
    assert [(one.key, one.block, one.value, one.timestamp_ms - 1000, one.attempt) for one in found] == [
        (key, block, value, delta, attempt) for key, block, value, delta, _, attempt in records
    ]
    assert [(one.position, one.producer_id, one.sequence) for one in found] == [(base + i, 9, 30 + i) for i in range(len(records))]


def test_records_before_the_wanted_offset_are_left_out() -> None:
    batch = make_batch([(None, b"", bytes([number]), 0, 0, 1) for number in range(5)])
    assert [one.position for one in decode(batch, 13)] == [13, 14]
    assert decode(batch, 15) == []


def test_the_salt_of_another_segment_does_not_validate() -> None:
    with pytest.raises(CorruptBatch):
        fmt.parse_header(make_batch([(None, b"", b"v", 0, 0, 1)]), 0, SALT + 1)


def test_trap_no_field_of_a_header_is_used_before_its_checksum() -> None:
    # A flipped bit in base_offset once made a reader spin for ever.
    batch = make_batch([(None, b"", b"value", 0, 0, 1)])
    for bit in range(64 * 8):
        broken = bytearray(batch)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptBatch):
            fmt.parse_header(bytes(broken), 0, SALT)


def test_every_flipped_bit_of_a_body_is_seen() -> None:
    batch = make_batch([(b"key", b"", b"value" * 4, 0, 0, 1)])
    fields = fmt.parse_header(batch, 0, SALT)
    for bit in range(64 * 8, len(batch) * 8):
        broken = bytearray(batch)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptBatch):
            fmt.open_body(bytes(broken[64:]), fields)


def test_wider_meta_entries_of_a_later_version_are_stepped_over() -> None:
    records = [(b"k", b"", b"one", 1, 0, 1), (None, b"", b"two", 2, 0, 1)]
    plain = fmt.encode_body(records).data
    wide = plain[:20] + b"NEW!" + plain[20:40] + b"NEW!" + plain[40:]
    batch = remake(make_batch(records)[:64] + wide, length=len(wide), crc=zlib.crc32(wide), width=24)
    assert [(one.key, one.value) for one in decode(batch)] == [(b"k", b"one"), (None, b"two")]


def test_a_zlib_batch_is_read() -> None:
    plain = fmt.encode_body([(None, b"", b"zip" * 100, 0, 0, 1)]).data
    stored = zlib.compress(plain)
    batch = remake(
        make_batch([(None, b"", b"", 0, 0, 1)])[:64] + stored, length=len(stored), crc=zlib.crc32(stored), attributes=1, plain=len(plain)
    )
    assert decode(batch)[0].value == b"zip" * 100


@pytest.mark.parametrize("attributes", [2, 3, 7, 1 << 3, 1 << 5, 1 << 15])
def test_unknown_codecs_and_attributes_are_refused_by_name(attributes: int) -> None:
    with pytest.raises(UnsupportedVersion):
        decode(remake(make_batch([(None, b"", b"v", 0, 0, 1)]), attributes=attributes))


def test_a_few_bytes_cannot_inflate_without_end() -> None:
    stored = zlib.compress(bytes(200 << 20), 1)
    batch = remake(
        make_batch([(None, b"", b"", 0, 0, 1)])[:64] + stored, length=len(stored), crc=zlib.crc32(stored), attributes=1, plain=100
    )
    with pytest.raises(CorruptBatch):
        decode(batch)


def test_a_null_value_is_read_as_empty() -> None:
    body = fmt.META.pack(0, fmt.NULL, 1, 0, 0, 1) + b"k"
    batch = remake(make_batch([(b"k", b"", b"", 0, 0, 1)])[:64] + body, crc=zlib.crc32(body))
    assert (decode(batch)[0].key, decode(batch)[0].value) == (b"k", b"")


def test_a_control_batch_shows_no_records() -> None:
    assert decode(remake(make_batch([(None, b"", b"v", 0, 0, 1)]), attributes=fmt.CONTROL)) == []


@pytest.mark.parametrize("sizes", [(0xFFFFFFFE, 0, 0), (0, 0xFFFFFFFE, 0), (0, 0, 0xFFFFFFFE), (1, 0, 0), (0xFFFFFFFF, 0, 5)])
def test_lengths_that_do_not_add_up_are_named(sizes: tuple[int, int, int]) -> None:
    body = fmt.META.pack(0, *sizes, 0, 1)
    batch = remake(make_batch([(None, b"", b"", 0, 0, 1)])[:64] + body, crc=zlib.crc32(body), length=len(body))
    with pytest.raises(CorruptBatch):
        decode(batch)


@given(st.binary(max_size=200), st.integers(1, 2**32 - 1), st.integers(0, 65535))
@settings(max_examples=300, deadline=None)
def test_any_body_with_right_checksums_gives_records_or_a_named_error(body: bytes, count: int, width: int) -> None:
    # What a hostile or buggy writer could store: no hang, no allocation by the numbers it claims.
    batch = remake(make_batch([(None, b"", b"", 0, 0, 1)])[:64] + body, length=len(body), crc=zlib.crc32(body), count=count, width=width)
    with suppress(LogError):
        assert len(decode(batch)) <= len(body) // 20
    fields = fmt.HEADER.unpack_from(batch)
    with suppress(CorruptBatch):
        fmt.decode_batch(body, fields, 0, LogRecord)
    with suppress(CorruptBatch):
        fmt.first_at_or_after(body, fields, 0)


def test_a_batch_over_8_mib_is_refused_before_it_is_written() -> None:
    with pytest.raises(TooLarge):
        fmt.encode_body([(None, b"", bytes(8 << 20), 0, 0, 1)])


@pytest.mark.parametrize("numbers", [(2**31, 0, 1), (0, 65536, 1), (0, 0, -1)])
def test_a_number_that_does_not_fit_its_field_is_a_value_error(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        fmt.encode_body([(None, b"", b"", *numbers)])


def test_another_major_version_of_a_segment_is_unsupported_not_corrupt() -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        fmt.decode_segment_header(fmt.encode_segment_header(HEADER._replace(major=2)))
    assert caught.value.found == "2.0"


@pytest.mark.parametrize("at", range(64))
def test_a_damaged_segment_header_is_corrupt(at: int) -> None:
    packed = bytearray(fmt.encode_segment_header(HEADER))
    packed[at] ^= 1
    with pytest.raises(CorruptBatch):
        fmt.decode_segment_header(bytes(packed))
