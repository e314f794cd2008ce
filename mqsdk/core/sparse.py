"""The blob saved beside the watermark: what is settled above it, and how often unsettled messages have failed.

Layout, version 1: one byte version, 4 bytes CRC-32 of the rest (big endian), then LEB128 integers: watermark, number of attempt entries,
for each (position - previous one, failed attempts), then until the end for each settled range (gap to the previous one, length). Previous
starts at the watermark. A blob that is foreign, damaged or of another watermark restores nothing: messages then run again, none is skipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mqsdk.core.watermark import Range

VERSION = b"\x01"
_HEAD = 5
_LARGEST = 1 << 63


class Saved(NamedTuple):
    """ranges: settled, rising, above the watermark. attempts: position -> failed attempts so far."""

    ranges: tuple[Range, ...] = ()
    attempts: Mapping[int, int] = {}


def encode(watermark: int, ranges: Sequence[Range], attempts: Mapping[int, int], limit: int) -> bytes:
    """At most `limit` bytes; b"" when there is nothing to say or no room.

    ranges: rising, disjoint, at or above the watermark. What does not fit is left out from the far end, so that a restart repeats
    messages instead of a consumer standing still; attempt counts get half of the room at most.
    """
    if limit <= 0 or not (ranges or attempts):
        return b""
    start = _varint(watermark)
    room = limit - _HEAD - len(start) - 4
    counts, number = _attempts(watermark, attempts, room // 2)
    room -= len(counts)
    body = start + _varint(number) + counts + _ranges(watermark, ranges, room)
    if room < 0:
        return b""
    return VERSION + zlib.crc32(body).to_bytes(4, "big") + body


def _attempts(watermark: int, attempts: Mapping[int, int], room: int) -> tuple[bytes, int]:
    out = bytearray()
    previous, number = watermark, 0
    for position in sorted(attempts):
        entry = _varint(position - previous) + _varint(attempts[position])
        if len(out) + len(entry) > room:
            break
        out += entry
        previous = position
        number += 1
    return bytes(out), number


def _ranges(watermark: int, ranges: Sequence[Range], room: int) -> bytes:
    out = bytearray()
    previous = watermark
    for start, stop in ranges:
        gap, length = start - previous, stop - start
        # nearly all are below 128; the call costs more than the byte
        entry = bytes((gap, length)) if gap < 128 and length < 128 else _varint(gap) + _varint(length)
        if len(out) + len(entry) > room:
            break
        out += entry
        previous = stop
    return bytes(out)


def decode(blob: bytes, watermark: int) -> Saved:
    """What `encode` was given. Empty for a blob of another watermark (the group was reset), or a foreign, damaged or newer one."""
    if len(blob) <= _HEAD or blob[:1] != VERSION or zlib.crc32(blob[_HEAD:]) != int.from_bytes(blob[1:_HEAD], "big"):
        return Saved()
    try:
        return _decode(iter(_varints(blob[_HEAD:])), watermark)
    except (ValueError, StopIteration):
        return Saved()


def _decode(numbers: Iterator[int], watermark: int) -> Saved:
    if next(numbers) != watermark:
        return Saved()
    attempts: dict[int, int] = {}
    at = watermark
    for _ in range(next(numbers)):
        at += next(numbers)
        attempts[at] = next(numbers)
    ranges: list[Range] = []
    at = watermark
    for gap in numbers:
        start = at + gap
        at = start + next(numbers)
        if gap == 0 or at == start:
            raise ValueError("ranges touch or are empty")
        ranges.append((start, at))
    return Saved(tuple(ranges), attempts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        if value >= _LARGEST:
            raise ValueError("number too large")
        if byte & 128:
            shift += 7
            continue
        yield value
        value = shift = 0
    if shift:
        raise ValueError("blob ends inside a number")
