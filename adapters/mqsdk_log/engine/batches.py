"""Delayed records as batches: into a band, out of it, and into the partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from . import dueheap
from . import format as fmt
from .bands import Bands
from .errors import CorruptRange, OutOfRange
from .reader import LogRecord, Reader

_SKIP = 256  # records read over rather than sought for: a seek costs about as much
_SPAN_MS = 1 << 31  # times of a batch are 32-bit differences


def of_delayed(records: Sequence[fmt.NewRecord], dues: Sequence[int], span: int) -> list[fmt.Body]:
    """Batches of one write each, with due times for words. span: from their base time to the latest due time, so that the times in batch
    headers tell when a whole segment is over.
    """
    if len(records) == 1:
        return [fmt.encode_with_words(records, dues)._replace(span=span)]
    bodies: list[fmt.Body] = []
    first = 0
    for stop in [*_cuts([len(key or b"") + len(block) + len(value) for key, block, value, *_ in records]), len(records)]:
        bodies.append(fmt.encode_with_words(records[first:stop], dues[first:stop])._replace(span=span))
        first = stop
    return bodies


def of_moved(refs: Sequence[int], found: Mapping[int, LogRecord]) -> tuple[fmt.Body, int]:
    """(batch, its base time), with references for words."""
    base_ms = found[refs[0]].timestamp_ms
    return fmt.encode_with_words([_plain(found[ref], base_ms) for ref in refs], refs), base_ms


def parts(refs: Sequence[int], found: Mapping[int, LogRecord]) -> Iterator[Sequence[int]]:
    """Cut where one batch could not hold the next record too: for its size, or because the times are too far apart."""
    sizes = [len(found[ref].value) + len(found[ref].key or b"") + len(found[ref].block) for ref in refs]
    cuts = set(_cuts(sizes))
    start = 0
    for index, ref in enumerate(refs):
        if index > start and (index in cuts or abs(found[ref].timestamp_ms - found[refs[start]].timestamp_ms) >= _SPAN_MS):
            yield refs[start:index]
            start = index
    if refs:
        yield refs[start:]


def _cuts(sizes: Sequence[int]) -> list[int]:
    """Where a new batch begins, so that each is one write; a larger record stands alone."""
    cuts: list[int] = []
    total = fmt.HEADER_SIZE
    for index, size in enumerate(sizes):
        size += fmt.WORD_META_SIZE
        if total + size > fmt.WRITE_LIMIT and total > fmt.HEADER_SIZE:
            cuts.append(index)
            total = fmt.HEADER_SIZE
        total += size
    return cuts


def _plain(record: LogRecord, base_ms: int) -> fmt.NewRecord:
    return record.key, record.block, record.value, record.timestamp_ms - base_ms, 0, record.attempt


class Fetcher:
    """Reads records of one partition out of its bands. One thread at a time."""

    def __init__(self, bands: Bands, number: int, chunk_bytes: int) -> None:
        self._bands = bands
        self._number = number
        self._chunk_bytes = chunk_bytes
        self._readers: dict[int, Reader[LogRecord]] = {}

    def fetch(self, refs: Sequence[int], deadline: float | None) -> dict[int, LogRecord]:
        """By reference; what is damaged is missing. Read in the order in which they are stored."""
        found: dict[int, LogRecord] = {}
        wanted: dict[int, dict[int, int]] = {}
        for ref in refs:
            band, offset = dueheap.place(ref)
            wanted.setdefault(band, {})[offset] = ref
        for band, offsets in wanted.items():
            reader = self._reader(band)
            for offset in sorted(offsets):
                record = self._read_one(reader, band, offset, deadline)
                if record is not None:
                    found[offsets[offset]] = record
        return found

    def _read_one(self, reader: Reader[LogRecord], band: int, offset: int, deadline: float | None) -> LogRecord | None:
        if not reader.position <= offset <= reader.position + _SKIP:
            reader.seek(offset)
        synced = False
        while reader.position <= offset:
            try:
                records = reader.read(max(1, offset - reader.position), self._chunk_bytes)
            except (OutOfRange, CorruptRange):
                # On the way there: removed, or damaged. At the record itself: lost.
                reader.seek(offset if reader.position < offset else offset + 1)
                continue
            if records and records[-1].position == offset:
                return records[-1]
            if not records and synced:
                return None
            if not records:  # with `always` what is not synced cannot be read yet
                self._bands.topic(band).partition(self._number).sync(deadline)
                synced = True
        return None

    def _reader(self, band: int) -> Reader[LogRecord]:
        found = self._readers.get(band)
        if found is None:
            found = self._readers[band] = self._bands.topic(band).partition(self._number).reader(0)
        return found
