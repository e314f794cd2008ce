"""The durable mark of a partition on disk: everything below `offset` was synced when it was written. Two copies of 32 bytes.

Only ever too low, never too high: it is written after the sync that it reports. The older copy is overwritten: one survives a torn write.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import NamedTuple

from . import files

NAME = "checkpoint"
_COPY = Struct("<QQQI")
SIZE = 32


class Mark(NamedTuple):
    """offset: all below is durable. segment, position: where in which file the batch with that offset begins or will begin."""

    offset: int
    segment: int
    position: int


def _encode(mark: Mark) -> bytes:
    packed = _COPY.pack(*mark, 0)
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def _decode(data: bytes) -> Mark | None:
    if len(data) != SIZE or zlib.crc32(data[:28]) != int.from_bytes(data[28:], "little"):
        return None
    offset, segment, position, _ = _COPY.unpack_from(data)
    return Mark(offset, segment, position)


def _copies(directory: int) -> list[Mark | None]:
    try:
        data = files.read_all(NAME, directory)
    except FileNotFoundError:
        return [None, None]
    return [_decode(data[:SIZE]), _decode(data[SIZE : 2 * SIZE])]


def copies(directory: int) -> tuple[list[Mark], int]:
    """(the valid copies, how many of those that were written once are damaged)."""
    try:
        size = len(files.read_all(NAME, directory))
    except FileNotFoundError:
        return [], 0
    valid = [mark for mark in _copies(directory) if mark is not None]
    return valid, min((size + SIZE - 1) // SIZE, 2) - len(valid)


def load(directory: int) -> Mark | None:
    """The newer valid copy; None when there is no file or both are damaged."""
    return max((mark for mark in _copies(directory) if mark is not None), default=None)


def store(directory: int, mark: Mark) -> None:
    """Overwrite the older (or damaged) copy. The caller holds the partition's sync lock, or the partition lock in recovery."""
    first, second = _copies(directory)
    which = 0 if first is None or (second is not None and first <= second) else 1
    fd = files.open_create(NAME, directory)
    try:
        files.write_all(fd, _encode(mark), which * SIZE)
    finally:
        files.close(fd)


def reset(directory: int, mark: Mark) -> None:
    """Write both copies: after recovery an older, higher mark must not come back."""
    files.replace(NAME, _encode(mark) * 2, directory)
