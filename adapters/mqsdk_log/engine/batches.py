"""Delayed records as batches: into a band, out of it, and into the partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from . import dueheap, files, segment
from . import format as fmt
from .bands import Bands
from .dueheap import Entry
from .errors import CorruptBatch, CorruptRange, OutOfRange
from .reader import LogRecord

if TYPE_CHECKING:
    from .partition import PartitionLog

_BATCH_BYTES = 4096  # of delayed records: one that is due by itself is decoded with its batch
_GUESS = 8192  # bytes read for a batch at first
_SPAN_MS = 1 << 31  # times of a batch are 32-bit differences


def of_delayed(records: Sequence[fmt.NewRecord], dues: Sequence[int], span: int) -> list[fmt.Body]:
    """Batches of one write each, with due times for words. span: from their base time to the latest due time, so that the times in batch
    headers tell when a whole segment is over.
    """
    if len(records) == 1:
        return [fmt.encode_with_words(records, dues, span)]
    bodies: list[fmt.Body] = []
    first = 0
    sizes = [len(key or b"") + len(block) + len(value) for key, block, value, *_ in records]
    for stop in [*_cuts(sizes, _BATCH_BYTES), len(records)]:
        bodies.append(fmt.encode_with_words(records[first:stop], dues[first:stop], span))
        first = stop
    return bodies


def entries(
    band: int, base: int, position: int, bodies: Sequence[fmt.Body], records: Sequence[fmt.NewRecord], dues: Sequence[int]
) -> Iterator[Entry]:
    """Of the heap, for batches that were stored at a position, the first record with the offset `base`."""
    index = 0
    for body in bodies:
        for _ in range(body.records):
            yield dues[index], dueheap.reference(band, base + index, len(records[index][2])), position
            index += 1
        position += fmt.HEADER_SIZE + len(body.data)


def of_moved(refs: Sequence[int], found: Mapping[int, LogRecord]) -> tuple[fmt.Body, int]:
    """(batch, its base time), with references for words."""
    base_ms = found[refs[0]].timestamp_ms
    return fmt.encode_with_words([_plain(found[ref], base_ms) for ref in refs], refs), base_ms


def parts(refs: Sequence[int], found: Mapping[int, LogRecord]) -> Iterator[Sequence[int]]:
    """Cut where one batch could not hold the next record too: for its size, or because the times are too far apart."""
    sizes = [len(found[ref].value) + len(found[ref].key or b"") + len(found[ref].block) for ref in refs]
    cuts = set(_cuts(sizes, fmt.WRITE_LIMIT))
    start = 0
    for index, ref in enumerate(refs):
        if index > start and (index in cuts or abs(found[ref].timestamp_ms - found[refs[start]].timestamp_ms) >= _SPAN_MS):
            yield refs[start:index]
            start = index
    if refs:
        yield refs[start:]


def _cuts(sizes: Sequence[int], limit: int) -> list[int]:
    """Where a new batch begins, so that each is within the limit; a larger record stands alone."""
    cuts: list[int] = []
    total = fmt.HEADER_SIZE
    for index, size in enumerate(sizes):
        size += fmt.WORD_META_SIZE
        if total + size > limit and total > fmt.HEADER_SIZE:
            cuts.append(index)
            total = fmt.HEADER_SIZE
        total += size
    return cuts


def _plain(record: LogRecord, base_ms: int) -> fmt.NewRecord:
    return record.key, record.block, record.value, record.timestamp_ms - base_ms, 0, record.attempt


class Fetcher:
    """Reads records of one partition out of its bands, each where its entry says. One thread at a time."""

    def __init__(self, bands: Bands, number: int) -> None:
        self._bands = bands
        self._number = number
        self._sources: dict[int, _Source] = {}

    def fetch(self, entries: Sequence[Entry], deadline: float | None) -> dict[int, LogRecord]:
        """By reference; what is damaged is missing. Read in the order in which they are stored."""
        found: dict[int, LogRecord] = {}
        for ref, position in sorted((ref, position) for _, ref, position in entries):
            band, offset = dueheap.place(ref)
            source = self._sources.get(band)
            if source is None:
                source = self._sources[band] = _Source(self._bands.topic(band).partition(self._number))
            record = source.read(offset, position, deadline)
            if record is not None:
                found[ref] = record
        return found

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources = {}


class _Source:
    """One band: the segment and the batch that were read last."""

    def __init__(self, log: PartitionLog) -> None:
        self._log = log
        self._known: list[int] = []
        self._base = self._fd = -1
        self._salt = 0
        self._first = 0
        self._records: list[LogRecord] = []

    def read(self, offset: int, position: int, deadline: float | None) -> LogRecord | None:
        """None where it is damaged or gone. What is not synced with `always` is synced first: what was moved is never lost here."""
        if not 0 <= offset - self._first < len(self._records):
            if offset >= self._log.end():
                self._log.sync(deadline)
            if not self._load(offset, position) and not self._search(offset):
                return None
        return self._records[offset - self._first]

    def _load(self, offset: int, position: int) -> bool:
        """The batch at the position, if it is the one; whether it was."""
        for known in (self._known, None):  # the list of segments may be an old one
            if known is None:
                self._known = known = segment.bases(self._log.directory)
            base = segment.holding(known, offset)
            with suppress(CorruptBatch, FileNotFoundError):
                if base is not None:
                    self._open(base)
                    records = self._decode(position)
                    if records and records[0].position <= offset <= records[-1].position:
                        self._first, self._records = records[0].position, records
                        return True
        return False

    def _decode(self, position: int) -> list[LogRecord]:
        data = files.pread(self._fd, _GUESS, position)
        fields = fmt.parse_header(data, 0, self._salt)
        size = fmt.HEADER_SIZE + fields[fmt.BODY_LENGTH]
        if size > len(data):
            data = files.pread(self._fd, size, position)
        return fmt.decode_batch(fmt.open_body(data[fmt.HEADER_SIZE : size], fields), fields, 0, LogRecord)

    def _search(self, offset: int) -> bool:
        """In the usual way, where the position was no use."""
        reader = self._log.reader(offset)
        try:
            records = reader.read(1, 1)
        except (OutOfRange, CorruptRange):
            records = []
        finally:
            reader.close()
        if not records or records[0].position != offset:
            return False
        self._first, self._records = offset, records
        return True

    def _open(self, base: int) -> None:
        if base == self._base:
            return
        fd = files.open_read(segment.file_name(base), self._log.directory)
        try:
            salt = segment.read_header(fd).salt
        except BaseException:
            files.close(fd)
            raise
        self.close()
        self._base, self._fd, self._salt = base, fd, salt

    def close(self) -> None:
        files.close_all((self._fd,))
        self._base = self._fd = -1
