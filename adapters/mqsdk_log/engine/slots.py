"""Bytes of a cursor file: header, slots, checksums, and making a new file whole. No lock, no policy."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from . import files
from .errors import LogError, UnsupportedVersion

PAGE = 4096
BLOB_LIMIT = 4040
MAGIC, VERSION = b"MQSDKCUR", 1
CLEAN = 1  # flag: the last owner handed the partition back in order
SUPERSEDED_AT = 16

_HEADER = Struct("<8sIIQ")
_SLOT = Struct("<QQQqIIQ")
_WORD = Struct("<Q")
_CRC = _LENGTH = Struct("<I")
_SLOT_SIZE, _LENGTH_AT, _CRC_AT = _SLOT.size, 32, 4092

word_at = _WORD.unpack_from


class CursorDamaged(LogError):
    """A progress file does not pass its checks; the group cannot say where it stands until its progress is deleted."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(what)
        self.path = path


class Cursor(NamedTuple):
    """What one slot says. watermark: first position not settled. high: highest settled position + 1. sparse: opaque to the engine.

    clean: the last owner handed the partition back in order. A NamedTuple because one is made per settle.
    """

    watermark: int
    epoch: int = 0
    seq: int = 1
    high: int = 0
    sparse: bytes = b""
    clean: bool = True
    time_ms: int = 0


def decode(mapped: mmap.mmap, at: int) -> Cursor | None:
    """The slot at `at`, None when it was never filled or fails its checksum."""
    size = _SLOT_SIZE + _LENGTH.unpack_from(mapped, at + _LENGTH_AT)[0]
    if size > _SLOT_SIZE + BLOB_LIMIT:
        return None
    body = mapped[at : at + size]
    if _CRC.unpack_from(mapped, at + _CRC_AT)[0] != crc32(body):
        return None
    # Only from the copy: the mapping may change between two looks.
    seq, watermark, epoch, time_ms, _, flags, high = _SLOT.unpack_from(body)
    return Cursor(watermark, epoch, seq, high, body[_SLOT_SIZE:], bool(flags & CLEAN), time_ms) if seq else None


def fill(mapped: mmap.mmap, at: int, cursor: Cursor) -> None:
    """Write a slot. ValueError for a blob above BLOB_LIMIT."""
    watermark, epoch, seq, high, sparse, clean, time_ms = cursor
    length = len(sparse)
    if length > BLOB_LIMIT:
        raise ValueError(f"the sparse blob has {length} bytes; at most {BLOB_LIMIT} fit")
    body = _SLOT.pack(seq, watermark, epoch, time_ms, length, 1 if clean else 0, high) + sparse
    mapped[at : at + len(body)] = body
    _CRC.pack_into(mapped, at + _CRC_AT, crc32(body))


def set_word(mapped: mmap.mmap, at: int, value: int) -> None:
    mapped[at : at + 8] = _WORD.pack(value)


def map_file(fd: int, path: Path) -> tuple[mmap.mmap, int]:
    """(mapping, number of partitions) of an open cursor file. CursorDamaged, UnsupportedVersion."""
    header = files.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        raise CursorDamaged("the progress file is shorter than its header", path)
    magic, version, partitions, _ = _HEADER.unpack(header)
    if magic != MAGIC:
        raise CursorDamaged("the progress file does not begin with its mark", path)
    if version != VERSION:
        raise UnsupportedVersion("the version of the progress file", version, VERSION)
    size = files.size_of(fd)
    if partitions < 1 or size != PAGE * (1 + 2 * partitions):
        raise CursorDamaged("the progress file's size does not fit its number of partitions", path)
    return files.map_shared(fd, size), partitions


def create(path: Path, cursors: Sequence[Cursor]) -> bool:
    """Make a file that appears complete or not at all, both slots of a partition with its cursor. False when the name was taken already."""
    directory = files.open_dir(path.parent)
    temporary = files.temporary_name("~")
    size = PAGE * (1 + 2 * len(cursors))
    try:
        fd = files.open_new(temporary, directory)
        try:
            files.allocate(fd, size)
            with files.map_shared(fd, size) as mapped:
                mapped[: _HEADER.size] = _HEADER.pack(MAGIC, VERSION, len(cursors), 0)
                for number, cursor in enumerate([*cursors, *cursors]):  # both regions, so that a torn page always leaves one
                    fill(mapped, PAGE * (1 + number), cursor)
            files.sync_file(fd)
            files.link(temporary, path.name, directory)
            files.sync_dir(directory)
        finally:
            files.close(fd)
            files.unlink(temporary, directory)
    except FileExistsError:
        return False
    finally:
        files.close(directory)
    return True
