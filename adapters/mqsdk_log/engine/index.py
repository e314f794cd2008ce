"""The sparse index of one segment: native u64 entries `(offset - base) << 32 | position`, one per 64 KiB of log or more.

A hint: never synced, may vanish, may lie. Whoever uses an entry checks the batch header it points to.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from contextlib import suppress

from . import files, segment
from . import format as fmt
from .errors import CorruptBatch
from .format import SEGMENT_HEADER_SIZE

SPACING = 1 << 16  # one entry per 4 KiB would cost 0.8 us more a publish at 16 KiB messages
_LOW = 0xFFFFFFFF


def load(directory: int, base: int) -> array[int]:
    """All entries; empty when there is no index."""
    try:
        data = files.read_all(segment.index_name(base), directory)
    except FileNotFoundError:
        return array("Q")
    entries = array("Q")
    entries.frombytes(data[: len(data) & ~7])
    return entries


def entry(base: int, offset: int, position: int) -> bytes:
    return array("Q", [(offset - base) << 32 | position]).tobytes()


def lookup(entries: array[int], base: int, offset: int) -> int:
    """Position of a batch that is not after the one holding `offset`; the first batch when no entry is."""
    found = bisect_right(entries, (offset - base) << 32 | _LOW) - 1
    return entries[found] & _LOW if found >= 0 else SEGMENT_HEADER_SIZE


def verified(fd: int, salt: int, base: int, entries: array[int], offset: int) -> int | None:
    """`lookup`, checked: the batch there must be valid and carry the offset the entry claims. None: the index lies."""
    position = lookup(entries, base, offset)
    if position == SEGMENT_HEADER_SIZE:
        return position
    claimed = base + (entries[bisect_right(entries, (offset - base) << 32 | _LOW) - 1] >> 32)
    try:
        fields = fmt.parse_header(files.pread(fd, fmt.HEADER_SIZE, position), 0, salt)
    except CorruptBatch:
        return None
    return position if fields[fmt.BASE_OFFSET] == claimed <= offset else None


def entries_of(base: int, fd: int, salt: int, start: int, size: int, last: int = 0) -> array[int]:
    """The entries for the batches from position `start` to `size`, by hopping from header to header (15M to 60M messages a second).

    last: position of the entry before. Behind damage it goes on with the next batch.
    """
    entries = array("Q")
    for position, fields in segment.surviving(fd, salt, start, size):
        if position - last >= SPACING:
            entries.append((fields[fmt.BASE_OFFSET] - base) << 32 | position)
            last = position
    return entries


def rebuild(directory: int, base: int, fd: int, salt: int, size: int) -> array[int]:
    """Make the index anew and store it."""
    entries = entries_of(base, fd, salt, SEGMENT_HEADER_SIZE, size)
    with suppress(OSError):  # a hint: a recovery may tidy up at the same time, the disk may be full
        files.replace(segment.index_name(base), entries.tobytes(), directory, durable=False)
    return entries


def cut(directory: int, base: int, end: int) -> None:
    """Drop the entries that point at or past `end`."""
    entries = load(directory, base)
    keep = array("Q", [item for item in entries if item & _LOW < end])
    if len(keep) != len(entries):
        files.replace(segment.index_name(base), keep.tobytes(), directory, durable=False)


def find(directory: int, fd: int, header: fmt.SegmentHeader, offset: int, size: int) -> int:
    """Position of the batch that holds `offset` in this segment, or of the first one after it; `size` when there is none.

    Where damage has swallowed the offset: the position of the damage, so that the reader reports it.
    """
    base = header.base_offset
    entries = load(directory, base)
    position = verified(fd, header.salt, base, entries, offset)
    if position is None:
        position = lookup(rebuild(directory, base, fd, header.salt, size), base, offset)
    for at, fields in segment.surviving(fd, header.salt, position, size, SPACING):
        if fields[fmt.BASE_OFFSET] > offset:
            return position
        if fields[fmt.BASE_OFFSET] + fields[fmt.COUNT] > offset:
            return at
        position = at + fmt.HEADER_SIZE + fields[fmt.BODY_LENGTH]
    return position
