"""The blob saved beside the watermark: what is settled above it, how often unsettled messages have failed, and what may end a process.

Layout, version 1: one byte version, 4 bytes CRC-32 of the rest (big endian), then LEB128 integers: watermark, number of attempt entries,
for each (position - previous one, failed attempts), then until the end for each settled range (gap to the previous one, length). Previous
starts at the watermark. Version 2, written while an owner that did not hand back is suspected (`core.suspects`), has more between attempts
and ranges: (suspect_until - watermark), 1 if the owner ended in order else 0, number of crash entries, for each (position - previous one,
crashes), number of started ranges, for each (gap, length).

A blob that is foreign, damaged or of another watermark restores nothing: messages then run again, none is skipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mqsdk.core.watermark import Range

VERSION, VERSION_SUSPECT = b"\x01", b"\x02"
_HEAD = 5
_LARGEST = 1 << 63


class Suspicion(NamedTuple):
    """What an owner knows while it distrusts what the owner before it left: see `core.suspects`.

    until: nothing at or above this position was handed out then. crashes: position -> how often a process ended while it ran.
    started: ranges written down before they started. in_order: this owner ended in order, though with handlers cut short.
    """

    until: int
    crashes: Mapping[int, int] = {}
    started: tuple[Range, ...] = ()
    in_order: bool = False


class Saved(NamedTuple):
    """ranges: settled, rising, above the watermark. attempts: position -> failed attempts so far."""

    ranges: tuple[Range, ...] = ()
    attempts: Mapping[int, int] = {}
    suspicion: Suspicion | None = None


def encode(watermark: int, ranges: Sequence[Range], attempts: Mapping[int, int], limit: int, suspicion: Suspicion | None = None) -> bytes:
    """At most `limit` bytes; b"" when there is nothing to say or no room.

    ranges: rising, disjoint, at or above the watermark. What does not fit is left out from the far end, so that a restart repeats
    messages instead of a consumer standing still; counts get half of the room at most.
    """
    if limit <= 0 or not (ranges or attempts or suspicion):
        return b""
    start = _varint(watermark)
    room = limit - _HEAD - len(start) - (4 if suspicion is None else 24)  # for the numbers that count and bound
    counts, number = _attempts(watermark, attempts, room // (2 if suspicion is None else 4))
    middle = b"" if suspicion is None else _suspicion(watermark, suspicion, room // 4)
    room -= len(counts) + len(middle)
    body = start + _varint(number) + counts + middle + _ranges(watermark, ranges, room)
    if room < 0:
        return b""
    return (VERSION if suspicion is None else VERSION_SUSPECT) + zlib.crc32(body).to_bytes(4, "big") + body


def _suspicion(watermark: int, suspicion: Suspicion, room: int) -> bytes:
    crashes, number = _attempts(watermark, suspicion.crashes, room // 2)
    started = _ranges(watermark, suspicion.started, room // 2)
    count = sum(1 for byte in started if byte < 128) // 2  # a number ends with the byte that has no continuation bit
    head = _varint(max(0, suspicion.until - watermark)) + _varint(suspicion.in_order)
    return head + _varint(number) + crashes + _varint(count) + started


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
    if len(blob) <= _HEAD or blob[:1] not in (VERSION, VERSION_SUSPECT) or zlib.crc32(blob[_HEAD:]) != int.from_bytes(blob[1:_HEAD], "big"):
        return Saved()
    try:
        return _decode(iter(_varints(blob[_HEAD:])), watermark, blob[:1] == VERSION_SUSPECT)
    except (ValueError, StopIteration):
        return Saved()


def _decode(numbers: Iterator[int], watermark: int, suspects: bool) -> Saved:
    if next(numbers) != watermark:
        return Saved()
    attempts = _counts(numbers, watermark)
    suspicion = None
    if suspects:
        until, in_order = watermark + next(numbers), bool(next(numbers))
        crashes = _counts(numbers, watermark)
        started = _few_ranges(islice(numbers, 2 * next(numbers)), watermark, touching=True)
        suspicion = Suspicion(until, crashes, started, in_order)
    return Saved(_few_ranges(numbers, watermark), attempts, suspicion)


def _counts(numbers: Iterator[int], at: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for _ in range(next(numbers)):
        at += next(numbers)
        counts[at] = next(numbers)
    return counts


def _few_ranges(numbers: Iterator[int], watermark: int, touching: bool = False) -> tuple[Range, ...]:
    """touching: the first may begin at the watermark, which is not settled but may be started."""
    ranges: list[Range] = []
    at = watermark
    for gap in numbers:
        start = at + gap
        at = start + next(numbers)
        if at == start or (gap == 0 and (ranges or not touching)):
            raise ValueError("ranges touch or are empty")
        ranges.append((start, at))
    return tuple(ranges)


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
