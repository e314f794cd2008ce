"""Finding a place by time, through batch headers only.

`max_timestamp` of a header never falls within a partition (it is the highest up to and including its batch), so a binary search over it is
exact even where the records' own times are not in order: the first record at or after a time is in the first batch whose maximum is.
"""

from __future__ import annotations

from contextlib import suppress

from . import files, index, segment, state
from . import format as fmt
from .errors import CorruptBatch
from .format import HEADER_SIZE, SEGMENT_HEADER_SIZE, Fields, SegmentHeader


def locate(directory: int, words: state.Words, bound: int, time_ms: int) -> int:
    """First offset whose timestamp is at or after `time_ms`, `bound` when there is none below it."""
    found = segment.bases(directory)
    low, high = 0, len(found)  # the first segment whose first batch is not older is `low` in the end
    while low < high:
        middle = (low + high) // 2
        newest = first_newest(directory, found[middle], words)
        if newest is not None and newest < time_ms:
            low = middle + 1
        else:
            high = middle
    for base in found[max(low - 1, 0) :]:
        with suppress(FileNotFoundError, CorruptBatch):
            offset = _in_segment(directory, base, words, time_ms)
            if offset is not None:
                return min(offset, bound)
    return bound


def _open(directory: int, base: int, words: state.Words) -> tuple[int, SegmentHeader, int]:
    """(descriptor, header, end of published data)."""
    fd = files.open_read(segment.file_name(base), directory)
    try:
        header = segment.read_header(fd)
        end, _, active = state.read_tail(words)
        return fd, header, end if base == active else files.size_of(fd)
    except BaseException:
        files.close(fd)
        raise


def first_newest(directory: int, base: int, words: state.Words) -> int | None:
    """Maximum of the first batch; None when there is none to be read."""
    with suppress(FileNotFoundError, CorruptBatch):
        fd, header, end = _open(directory, base, words)
        try:
            return _newest_at(fd, header, SEGMENT_HEADER_SIZE, end)
        finally:
            files.close(fd)
    return None


def _newest_at(fd: int, header: SegmentHeader, position: int, end: int) -> int | None:
    if position + HEADER_SIZE > end:
        return None
    return fmt.parse_header(files.pread(fd, HEADER_SIZE, position), 0, header.salt)[fmt.MAX_TIMESTAMP]


def _in_segment(directory: int, base: int, words: state.Words, time_ms: int) -> int | None:
    fd, header, end = _open(directory, base, words)
    try:
        position = _before(directory, fd, header, end, time_ms)
        for at, fields in segment.surviving(fd, header.salt, position, end, index.SPACING):
            if fields[fmt.MAX_TIMESTAMP] >= time_ms:
                with suppress(CorruptBatch):  # a damaged body: the next record that can be read
                    offset = _in_batch(fd, at, fields, time_ms)
                    if offset is not None:
                        return offset
        return None
    finally:
        files.close(fd)


def _before(directory: int, fd: int, header: SegmentHeader, end: int, time_ms: int) -> int:
    """Position of a batch before the first one that is not older: binary search over the index, each entry's header checked."""
    entries = index.load(directory, header.base_offset)
    low, high = 0, len(entries)
    try:
        while low < high:
            middle = (low + high) // 2
            newest = _newest_at(fd, header, entries[middle] & 0xFFFFFFFF, end)
            if newest is not None and newest < time_ms:
                low = middle + 1
            else:
                high = middle
    except CorruptBatch:
        return SEGMENT_HEADER_SIZE  # the index lies: hop from the beginning
    return entries[low - 1] & 0xFFFFFFFF if low else SEGMENT_HEADER_SIZE


def _in_batch(fd: int, at: int, fields: Fields, time_ms: int) -> int | None:
    stored = files.pread(fd, fields[fmt.BODY_LENGTH], at + HEADER_SIZE)
    return fmt.first_at_or_after(fmt.open_body(stored, fields), fields, time_ms)
