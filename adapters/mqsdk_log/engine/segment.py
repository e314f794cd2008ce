"""Segment files of one partition: names, making one, walking through its batches. Takes no lock and decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from . import files
from . import format as fmt
from .errors import CorruptBatch
from .format import HEADER_SIZE, SEGMENT_HEADER_SIZE, Fields, SegmentHeader

SUFFIX = ".log"
INDEX_SUFFIX = ".idx"
CHUNK = 1 << 18
_SCAN_CHUNK = 1 << 20


def file_name(base: int) -> str:
    return f"{base:020d}{SUFFIX}"


def index_name(base: int) -> str:
    return f"{base:020d}{INDEX_SUFFIX}"


def bases(directory: int, suffix: str = SUFFIX) -> list[int]:
    """Base offsets of the segments in the directory, ascending."""
    return sorted(int(name[:20]) for name in files.names(directory) if name.endswith(suffix) and len(name) == 24 and name[:20].isdecimal())


def holding(found: list[int], offset: int) -> int | None:
    """The base of the segment that holds `offset`: the largest one not above it."""
    candidates = [base for base in found if base <= offset]
    return candidates[-1] if candidates else None


def create(directory: int, base: int, topic_uuid: bytes, partition: int, *, durable: bool, flags: int = 0) -> SegmentHeader:
    """Make an empty segment under a temporary name, then rename it: a segment never exists without its header."""
    header = SegmentHeader(int.from_bytes(files.random_bytes(4), "little"), base, int(time.time() * 1000), topic_uuid, partition, flags)
    files.replace(file_name(base), fmt.encode_segment_header(header), directory, durable=durable)
    return header


def read_header(fd: int) -> SegmentHeader:
    return fmt.decode_segment_header(files.pread(fd, SEGMENT_HEADER_SIZE, 0))


class Window:
    """Reads a file through one buffer, so that hopping over small batches does not cost a system call each."""

    def __init__(self, fd: int, size: int, chunk: int = CHUNK) -> None:
        self._fd = fd
        self._size = size
        self._chunk = chunk
        self._at = 0
        self._data = b""

    def load(self, position: int, length: int) -> tuple[bytes, int]:
        """(buffer, index) such that buffer[index : index + length] is the file at `position`, shorter at the end of the file."""
        start = position - self._at
        if start < 0 or start + length > len(self._data):
            wanted = min(max(length, self._chunk), max(self._size - position, 0))
            self._data = files.pread(self._fd, wanted, position) if wanted else b""
            self._at, start = position, 0
        return self._data, start


def headers(fd: int, salt: int, position: int, size: int, chunk: int = CHUNK) -> Iterator[tuple[int, Fields]]:
    """(position, header) of batch after batch, without looking at bodies, until the first that is not valid or not whole."""
    window = Window(fd, size, chunk)
    while position + HEADER_SIZE <= size:
        data, start = window.load(position, HEADER_SIZE)
        try:
            fields = fmt.parse_header(data, start, salt)
        except CorruptBatch:
            return
        after = position + HEADER_SIZE + fields[fmt.BODY_LENGTH]
        if after > size:
            return
        yield position, fields
        position = after


def surviving(fd: int, salt: int, position: int, size: int, chunk: int = CHUNK) -> Iterator[tuple[int, Fields]]:
    """As `headers`, but goes on behind damage at the next valid batch."""
    while True:
        for at, fields in headers(fd, salt, position, size, chunk):
            yield at, fields
            position = at + HEADER_SIZE + fields[fmt.BODY_LENGTH]
        found = resync(fd, salt, position, size, 0) if position + HEADER_SIZE <= size else None
        if found is None:
            return
        position = found[0]


class Extent(NamedTuple):
    """How far valid, dense batches reach: file position, next offset, highest timestamp."""

    position: int
    next_offset: int
    newest_ms: int


def scan(fd: int, salt: int, start: Extent, size: int) -> Extent:
    """Follow valid batches (header, body, offsets without a hole) from `start`; returns where they stop.

    The window is written out: after lone messages two calls for each were a third of a recovery (0.65M against 0.97M messages a second).
    """
    position, expected, newest = start
    parse, crc32, length, base, count = fmt.parse_header, fmt.crc32, fmt.BODY_LENGTH, fmt.BASE_OFFSET, fmt.COUNT
    data, begin = b"", position
    while position + HEADER_SIZE <= size:
        at = position - begin
        if at + HEADER_SIZE > len(data):
            data, begin, at = files.pread(fd, min(_SCAN_CHUNK, size - position), position), position, 0
        try:
            fields = parse(data, at, salt)
        except CorruptBatch:
            break
        after = position + HEADER_SIZE + fields[length]
        if fields[base] != expected or after > size:
            break
        if after - begin > len(data):
            data, begin, at = files.pread(fd, min(max(_SCAN_CHUNK, after - position), size - position), position), position, 0
        if crc32(data[at + HEADER_SIZE : after - begin]) != fields[fmt.BODY_CRC]:
            break
        position, expected = after, expected + fields[count]
        if fields[fmt.MAX_TIMESTAMP] > newest:
            newest = fields[fmt.MAX_TIMESTAMP]
    return Extent(position, expected, newest)


def resync(fd: int, salt: int, position: int, size: int, at_least: int) -> tuple[int, Fields] | None:
    """The next whole valid batch at or after `position` whose base offset is `at_least` or more.

    Searches for the batch magic and trusts nothing but the seeded header checksum and the body's.
    """
    overlap = len(fmt.BATCH_MAGIC) - 1
    while position + HEADER_SIZE <= size:
        data = files.pread(fd, min(CHUNK, size - position), position)
        if not data:
            return None
        found = data.find(fmt.BATCH_MAGIC)
        while found >= 0:
            with suppress(CorruptBatch):
                return position + found, _whole_batch(fd, salt, position + found, size, at_least)
            found = data.find(fmt.BATCH_MAGIC, found + 1)
        position += max(len(data) - overlap, 1)
    return None


def _whole_batch(fd: int, salt: int, position: int, size: int, at_least: int) -> Fields:
    fields = fmt.parse_header(files.pread(fd, HEADER_SIZE, position), 0, salt)
    length = fields[fmt.BODY_LENGTH]
    if fields[fmt.BASE_OFFSET] < at_least or position + HEADER_SIZE + length > size:
        raise CorruptBatch("not the batch looked for")
    if fmt.crc32(files.pread(fd, length, position + HEADER_SIZE)) != fields[fmt.BODY_CRC]:
        raise CorruptBatch("a batch body fails its checksum")
    return fields
