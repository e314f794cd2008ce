"""Repair of one partition by who has the root alone. Nothing is removed that was not kept first, no sealed segment is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mqsdk_log.engine import checkpoint, damage, files, index, quarantine, segment, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.checkpoint import Mark
from mqsdk_log.engine.errors import CorruptBatch, LogError
from mqsdk_log.engine.format import HEADER_SIZE, SEGMENT_HEADER_SIZE, SegmentHeader
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.tools import verify, walk
from mqsdk_log.tools.survey import PartitionView
from mqsdk_log.tools.walk import Flaw

_COPY = 1 << 20


def mend(view: PartitionView, log: PartitionLog, advance: walk.Advance) -> Iterator[str]:
    """Do what can be done; a sentence for each thing that was. Raises as `PartitionLog.append`, OSError."""
    yield from _restore_headers(view)
    yield from _write_again(view, log)
    log.recover()
    verdict = verify.partition(view, advance)
    for finding in verdict.findings:
        if finding.kind == "damage" and finding.flaw is not None and finding.flaw.start < finding.flaw.stop:
            yield _record(view, finding.flaw)
    if checkpoint.copies(view.directory)[1] or any(one.remedy == verify.MARK_ANEW for one in verdict.findings):
        yield _mark_anew(view, log)
    yield from _index_anew(view)


def _record(view: PartitionView, flaw: Flaw) -> str:
    """The exact range goes into damage.json, a copy of the bytes into quarantine/; the segment stays as it is."""
    damage.record(view.topic.directory, view.number, flaw.start, flaw.stop)
    kept = ""
    if flaw.stop_position > flaw.position:
        name = f"{flaw.segment:020d}-{flaw.position}.bad"
        with view.open(flaw.segment) as fd:
            quarantine.preserve(view.directory, fd, name, flaw.position, flaw.stop_position)
        kept = f"; a copy of the bytes is in quarantine/{name}"
    return f"recorded offsets {flaw.start} to {flaw.stop} (excluded) as lost{kept}"


# --- a failed sync -------------------------------------------------------------------------------------------------------------------


def _write_again(view: PartitionView, log: PartitionLog) -> Iterator[str]:
    """What came after the durable mark goes to new files that are synced: the kernel may have called the old pages clean."""
    tail = view.tail()
    if tail is None or not tail.failed:
        return
    found = segment.bases(view.directory)
    first = segment.holding(found, tail.synced)
    for base in [base for base in found if (first is None or base >= first) and base <= tail.segment]:
        _copied(view, base)
    files.sync_dir(view.directory)
    checkpoint.reset(view.directory, Mark(tail.next_offset, tail.segment, tail.end))
    words = log.slot
    words[state.SYNCED] = words[state.VISIBLE] = tail.next_offset
    words[state.GENERATION] += 1
    words[state.FLAGS] &= ~state.FAILED & 0xFF
    yield f"wrote offsets {tail.synced} to {tail.next_offset} (excluded) to new files and synced them; appends are taken again"


def _copied(view: PartitionView, base: int) -> None:
    name = segment.file_name(base)
    temporary = files.temporary_name(name)
    copy = files.open_new(temporary, view.directory)
    try:
        with view.open(base) as fd:
            position = 0
            while data := files.pread(fd, _COPY, position):
                files.write_all(copy, data, position)
                position += len(data)
        files.sync_data(copy)
    except BaseException:
        files.unlink(temporary, view.directory)
        raise
    finally:
        files.close(copy)
    files.rename(temporary, name, view.directory)


# --- hints ---------------------------------------------------------------------------------------------------------------------------


def _mark_anew(view: PartitionView, log: PartitionLog) -> str:
    log.sync()
    tail = view.tail()
    assert tail is not None
    checkpoint.reset(view.directory, Mark(tail.next_offset, tail.segment, tail.end))
    return f"wrote the durable mark anew: everything below offset {tail.next_offset} is on the medium"


def _index_anew(view: PartitionView) -> Iterator[str]:
    tail = view.tail()
    for base in view.bases(tail):
        if verify.index_problem(view, base, index.load(view.directory, base)):
            with view.open(base) as fd:
                index.rebuild(view.directory, base, fd, view.header(fd).salt, view.limit(base, fd, tail))
            yield f"made the index of segment {base} anew"


# --- a segment header ----------------------------------------------------------------------------------------------------------------


def _restore_headers(view: PartitionView) -> Iterator[str]:
    """Without its header, which holds the salt, no batch of a segment can be checked; but the batches tell the salt."""
    for base in segment.bases(view.directory):
        with view.open(base) as fd:
            if is_readable(view, fd) or (found := restored(view, fd, base)) is None:
                continue
            name = f"{base:020d}-0.bad"
            quarantine.preserve(view.directory, fd, name, 0, SEGMENT_HEADER_SIZE)
        writable = files.open_write(segment.file_name(base), view.directory)
        try:
            files.write_all(writable, found, 0)
            files.sync_data(writable)
        finally:
            files.close(writable)
        yield f"made the header of segment {base} anew from its batches; the old one is in quarantine/{name}"


def is_readable(view: PartitionView, fd: int) -> bool:
    """Whether the segment has a header that this version, or another, can read."""
    try:
        view.header(fd)
    except CorruptBatch:
        return False
    except LogError:
        return True
    return True


def restored(view: PartitionView, fd: int, base: int) -> bytes | None:
    """The header of a segment that has lost it, None when the batches do not prove one.

    Two witnesses are asked for: the salt that the first batch implies must be what the damaged header says, or must fit the second batch.
    """
    size = files.size_of(fd)
    old = files.pread(fd, SEGMENT_HEADER_SIZE, 0)
    first = files.pread(fd, HEADER_SIZE, SEGMENT_HEADER_SIZE)
    if len(old) < SEGMENT_HEADER_SIZE or len(first) < HEADER_SIZE:
        return None
    salt = implied_salt(first)
    batches = segment.headers(fd, salt, SEGMENT_HEADER_SIZE, size)
    found = next(batches, None)
    if found is None or found[1][fmt.BASE_OFFSET] != base or not _body_fits(fd, *found):
        return None
    if next(batches, None) is None and old[12:16] != salt.to_bytes(4, "little"):
        return None
    created, flags = int.from_bytes(old[24:32], "little"), int.from_bytes(old[52:56], "little")
    header = fmt.encode_segment_header(SegmentHeader(salt, base, created, view.topic.uuid, view.number, flags))
    if header[60:] != old[60:]:  # time or flags were hit too. JUMP would call a hole before it meant: left out, so that a hole is told
        newest = max(found[1][fmt.MAX_TIMESTAMP], 0)
        header = fmt.encode_segment_header(SegmentHeader(salt, base, newest, view.topic.uuid, view.number))
    return header


def _body_fits(fd: int, position: int, fields: fmt.Fields) -> bool:
    return fmt.crc32(files.pread(fd, fields[fmt.BODY_LENGTH], position + HEADER_SIZE)) == fields[fmt.BODY_CRC]


def implied_salt(header: bytes) -> int:
    """The start value with which the checksum of a batch header comes out as it stands there: there is exactly one.

    crc32(data, start) is linear in `start` over GF(2), but for a constant; solved by elimination.
    """
    data, wanted = header[8:64], int.from_bytes(header[4:8], "little")
    constant = fmt.crc32(data, 0)
    pivots: dict[int, tuple[int, int]] = {}  # leading bit -> (value, start bits that give it)
    for bit in range(32):
        value, starts = _reduced(fmt.crc32(data, 1 << bit) ^ constant, 1 << bit, pivots.get)
        if value:
            pivots[value.bit_length()] = value, starts
    return _reduced(wanted ^ constant, 0, pivots.get)[1]


def _reduced(value: int, starts: int, pivot: Callable[[int], tuple[int, int] | None]) -> tuple[int, int]:
    while value and (found := pivot(value.bit_length())) is not None:
        value, starts = value ^ found[0], starts ^ found[1]
    return value, starts
