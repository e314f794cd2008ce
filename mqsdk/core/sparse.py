"""The blob saved beside the watermark: what is settled above it, how often unsettled messages have failed, which of them are halted, and
what may end a process.

Layout, version 2: one byte version, 4 bytes CRC-32 of the rest (big endian), then LEB128 integers and sets of positions:

    watermark, the settled set, failed attempts; where there is a suspicion also: (suspect_until - watermark), 1 if the owner ended in
    order else 0, crashes, the started set
    counts (failed attempts, crashes): number of groups, for each the count and the set of positions that have it, highest count first
    version 3, where something is halted: halts (counts whose numbers are the kinds of `core.parking`) stand behind the watermark
    a set: 2 * bytes that follow + kind; kind 0: pairs (gap to the previous range, length), the first gap from the watermark;
    kind 1: bits, the lowest of the first byte is the watermark

Of the two kinds a set has the shorter: 12,000 positions, the most that a span allows, take 1,500 bytes at most. A blob that is foreign,
damaged or of another watermark restores nothing: messages then run again, none is skipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mqsdk.core.watermark import Range

VERSION, WITH_HALTS = b"\x02", b"\x03"
_HEAD = 5
_LARGEST = 1 << 63
_MOST = 1 << 20  # positions of a run of counts: a damaged one must not become a mapping of as many


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
    """ranges: settled, rising, above the watermark. By position: attempts, failed so far; halts, their kinds as in `core.parking`."""

    ranges: tuple[Range, ...] = ()
    attempts: Mapping[int, int] = {}
    suspicion: Suspicion | None = None
    halts: Mapping[int, int] = {}


def encode(
    watermark: int,
    ranges: Sequence[Range],
    attempts: Mapping[int, int],
    limit: int,
    suspicion: Suspicion | None = None,
    halts: Mapping[int, int] | None = None,
) -> bytes:
    """At most `limit` bytes; b"" when there is nothing to say or no room.

    ranges: rising, disjoint, at or above the watermark. What does not fit is left out from the far end, so that a restart repeats
    messages instead of a consumer standing still; halts and counts get half of the room each at most.
    """
    if limit <= 0 or not (ranges or attempts or suspicion or halts):
        return b""
    start = _varint(watermark)
    if halts:
        start += _counts(watermark, halts, (limit - _HEAD - len(start)) // 2)
    room = limit - _HEAD - len(start)
    tail = b"" if suspicion is None else _suspicion(watermark, suspicion, room // 2)
    counts = _counts(watermark, attempts, (room - len(tail)) // 2)
    body = start + _set(watermark, ranges, room - len(tail) - len(counts)) + counts + tail
    if _HEAD + len(body) > limit:
        return b""
    return (WITH_HALTS if halts else VERSION) + zlib.crc32(body).to_bytes(4, "big") + body


def _suspicion(watermark: int, suspicion: Suspicion, room: int) -> bytes:
    head = _varint(max(0, suspicion.until - watermark)) + _varint(suspicion.in_order)
    crashes = _counts(watermark, suspicion.crashes, (room - len(head)) // 2)
    return head + crashes + _set(watermark, suspicion.started, room - len(head) - len(crashes))


def _counts(watermark: int, counts: Mapping[int, int], room: int) -> bytes:
    groups: dict[int, list[int]] = {}
    for position in sorted(counts):
        groups.setdefault(counts[position], []).append(position)
    out = bytearray()
    number = 0
    for count in sorted(groups, reverse=True):
        left = room - len(out) - 6
        if left <= 0:
            break
        out += _varint(count) + _set(watermark, joined(groups[count]), left)
        number += 1
    return _varint(number) + bytes(out)


def joined(positions: Sequence[int]) -> list[Range]:
    """Rising positions as ranges that do not touch."""
    out: list[Range] = []
    for position in positions:
        if out and out[-1][1] == position:
            out[-1] = (out[-1][0], position + 1)
        else:
            out.append((position, position + 1))
    return out


def _set(watermark: int, ranges: Sequence[Range], room: int) -> bytes:
    """Positions as runs or as bits, whichever is shorter; what is over `room` is left out from the far end."""
    room = max(0, room - 3)  # what comes before it
    wanted = (ranges[-1][1] - watermark + 7) // 8 if ranges else 0
    has_room = wanted <= room
    runs, is_whole = _runs(watermark, ranges, min(room, wanted) if has_room else room)
    if is_whole or not has_room:
        return _varint(2 * len(runs)) + runs
    bits = 0
    for start, stop in ranges:
        bits |= ((1 << (stop - start)) - 1) << (start - watermark)
    return _varint(2 * wanted + 1) + bits.to_bytes(wanted, "little")


def _runs(watermark: int, ranges: Sequence[Range], room: int) -> tuple[bytes, bool]:
    """As many as fit, and whether those are all."""
    out = bytearray()
    previous = watermark
    for start, stop in ranges:
        gap, length = start - previous, stop - start
        # nearly all are below 128; the call costs more than the byte
        entry = bytes((gap, length)) if gap < 128 and length < 128 else _varint(gap) + _varint(length)
        if len(out) + len(entry) > room:
            return bytes(out), False
        out += entry
        previous = stop
    return bytes(out), True


def decode(blob: bytes, watermark: int) -> Saved:
    """What `encode` was given. Empty for a blob of another watermark (the group was reset), or one that is foreign, damaged or newer."""
    version = blob[:1]
    if len(blob) <= _HEAD or version not in (VERSION, WITH_HALTS) or zlib.crc32(blob[_HEAD:]) != int.from_bytes(blob[1:_HEAD], "big"):
        return Saved()
    try:
        return _decode(_Reader(blob, _HEAD, watermark), version == WITH_HALTS)
    except (ValueError, IndexError):
        return Saved()


def watermark_of(blob: bytes) -> int:
    """The watermark that a blob belongs to; 0 for what is none of ours."""
    if len(blob) <= _HEAD or blob[:1] not in (VERSION, WITH_HALTS):
        return 0
    try:
        return _Reader(blob, _HEAD, 0).number()
    except (ValueError, IndexError):
        return 0


def _decode(reader: _Reader, has_halts: bool) -> Saved:
    if reader.number() != reader.watermark:
        return Saved()
    halts = reader.counts() if has_halts else {}
    settled = reader.set()
    if settled and settled[0][0] == reader.watermark:
        raise ValueError("the watermark itself is not settled")
    attempts = reader.counts()
    suspicion = None
    if not reader.is_at_end:
        until, in_order = reader.watermark + reader.number(), bool(reader.number())
        suspicion = Suspicion(until, reader.counts(), reader.set(), in_order)
    return Saved(settled, attempts, suspicion, halts)


class _Reader:
    """Takes a body apart. Raises ValueError or IndexError where it is none of ours."""

    def __init__(self, data: bytes, at: int, watermark: int) -> None:
        self._data = data
        self._at = at
        self.watermark = watermark

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._data)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if value >= _LARGEST:
                raise ValueError("number too large")
            if byte < 128:
                return value
            shift += 7

    def counts(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for _ in range(self.number()):
            count = self.number()
            for start, stop in self.set():
                if stop - start > _MOST:
                    raise ValueError("more positions than any owner counts")
                found.update(dict.fromkeys(range(start, stop), count))
        return found

    def set(self) -> tuple[Range, ...]:
        size, is_bits = divmod(self.number(), 2)
        stop = self._at + size
        if stop > len(self._data):
            raise ValueError("a set is longer than the blob")
        if is_bits:
            return tuple(self._bits(stop))
        return self._runs(stop)

    def _bits(self, stop: int) -> Iterator[Range]:
        text = bin(int.from_bytes(self._data[self._at : stop], "little"))[:1:-1]
        self._at = stop
        end = 0
        while (start := text.find("1", end)) >= 0:
            end = text.find("0", start)
            if end < 0:
                end = len(text)
            yield self.watermark + start, self.watermark + end

    def _runs(self, stop: int) -> tuple[Range, ...]:
        out: list[Range] = []
        at = self.watermark
        while self._at < stop:
            start = at + self.number()
            at = start + self.number()
            if at == start or (out and out[-1][1] == start):
                raise ValueError("ranges touch or are empty")
            out.append((start, at))
        if self._at != stop:
            raise ValueError("a set ends inside a number")
        return tuple(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
