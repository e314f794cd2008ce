"""Makes a partition's tail true again from its segment files, under the partition lock. After a crash inside it the next run does the same.

Same boot: a writer died between write and commit, or mid-write. New boot, copied directory, lost or damaged state page: validate everything
from the durable mark on. A failure at or above the mark is a torn tail and is cut (kept in quarantine/); a failure below it is damage of
acknowledged data and is never cut but recorded. With `always` the mark may lag the truth, so there a failure with valid batches after it
counts as damage too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from . import checkpoint, damage, files, index, quarantine, segment, state
from . import format as fmt
from .checkpoint import Mark
from .errors import CorruptBatch
from .format import SEGMENT_HEADER_SIZE, SegmentHeader
from .segment import Extent


@dataclass(frozen=True)
class Site:
    """A partition as recovery sees it. strict: durability `always`. floor: lowest next offset that readers' progress allows."""

    directory: int
    topic_directory: int
    topic_uuid: bytes
    partition: int
    words: state.Words
    tag: int
    strict: bool
    floor: Callable[[], int]


@dataclass
class Report:
    """What one recovery did. kind: intact, tail (same boot), truncated (someone cut the file), boot (validated from the mark)."""

    kind: str = "intact"
    cut_bytes: int = 0
    damaged: list[tuple[int, int]] = field(default_factory=list)


def recover(site: Site) -> Report:
    """Bring slot and files into agreement. The caller holds the partition lock; OSError passes through and may be retried."""
    if site.words[state.TAG] == site.tag:
        report = _same_boot(site)
        if report is not None:
            return report
        site.words[state.TAG] = 0
    return _from_mark(site)


# --- a writer died in this boot -------------------------------------------------------------------------------------------------


def _same_boot(site: Site) -> Report | None:
    """None: the slot contradicts the files, so believe the files only."""
    words = site.words
    end, next_offset, base = state.read_tail(words)
    if words[state.FLAGS] & state.ROLLING:
        _drop_orphans(site, base)
        words[state.FLAGS] &= ~state.ROLLING & 0xFF
    found_bases = segment.bases(site.directory)
    if found_bases[-1:] != [base]:
        return None
    if words[state.LOG_START] not in found_bases:
        words[state.LOG_START] = found_bases[0]
    fd = files.open_write(segment.file_name(base), site.directory)
    try:
        header = segment.read_header(fd)
        size = files.size_of(fd)
        if size < end:
            return _truncated_by_someone(site, fd, header, next_offset)
        found = segment.scan(fd, header.salt, Extent(end, next_offset, words[state.LAST_TS]), size)
        if not _reaches(site, fd, header, end, next_offset):
            return None
        report = Report("tail" if size > end else "intact")
        if found.position < size:
            report.cut_bytes = size - found.position
            quarantine.cut(site.directory, fd, base, found.position, size)
    except CorruptBatch:
        return None
    finally:
        files.close(fd)
    if found.position > end:
        words[state.LAST_TS] = found.newest_ms
        state.commit_tail(words, found.position, found.next_offset, base)
    if size > end:
        words[state.GENERATION] += 1
    return report


def _drop_orphans(site: Site, active: int) -> None:
    """A roll died between naming the new segment and publishing it: the file is empty, and would shadow the old one for readers."""
    for base in segment.bases(site.directory):
        if base > active:
            fd = files.open_read(segment.file_name(base), site.directory)
            try:
                empty = files.size_of(fd) <= SEGMENT_HEADER_SIZE
            finally:
                files.close(fd)
            if empty:
                files.unlink(segment.file_name(base), site.directory)
    files.sync_dir(site.directory)  # before anything is appended: after a power loss it would stand in the middle of what was


def _reaches(site: Site, fd: int, header: SegmentHeader, end: int, next_offset: int) -> bool:
    """Whether a batch really ends at (end, next): guards against cutting good data on the word of a damaged state page."""
    position, offset = SEGMENT_HEADER_SIZE, header.base_offset
    if next_offset > offset:
        position = index.find(site.directory, fd, header, next_offset - 1, end)
        for at, fields in segment.headers(fd, header.salt, position, end):
            position = at + fmt.HEADER_SIZE + fields[fmt.BODY_LENGTH]
            offset = fields[fmt.BASE_OFFSET] + fields[fmt.COUNT]
    return position == end and offset == next_offset


def _truncated_by_someone(site: Site, fd: int, header: SegmentHeader, next_offset: int) -> Report:
    """The file is shorter than what was published. What is lost is recorded, and its offsets are never used again."""
    size = files.size_of(fd)
    found = segment.scan(fd, header.salt, Extent(SEGMENT_HEADER_SIZE, header.base_offset, 0), size)
    report = Report("truncated", size - found.position)
    if found.position < size:
        quarantine.cut(site.directory, fd, header.base_offset, found.position, size)
    if found.next_offset < next_offset:
        damage.record(site.topic_directory, site.partition, found.next_offset, next_offset)
        report.damaged.append((found.next_offset, next_offset))
    site.words[state.TAG] = 0
    files.sync_data(fd)
    _finish(site, _jump(site, found, header.base_offset, next_offset), next_offset, found.newest_ms)
    return report


# --- nothing but the files is believed ------------------------------------------------------------------------------------------


@dataclass
class _Survey:
    """The state of one walk over the segments: where valid data ends, and what was decided on the way."""

    site: Site
    mark: Mark | None
    report: Report
    tail: Extent
    base: int = -1
    resume: int = 0  # offsets below it must not be given out again
    stopped: bool = False

    @property
    def durable(self) -> int:
        return self.mark.offset if self.mark else 0

    def lose(self, start: int, stop: int) -> None:
        if start < stop:
            damage.record(self.site.topic_directory, self.site.partition, start, stop)
            self.report.damaged.append((start, stop))

    def is_damage(self, offset: int, valid_after: bool) -> bool:
        """Below the mark: always. Above it: a hole with valid batches behind it counts where the mark may lag, or is not known."""
        return offset < self.durable or (valid_after and (self.site.strict or self.mark is None))


def _from_mark(site: Site) -> Report:
    quarantine.tidy(site.directory)
    found = segment.bases(site.directory)
    mark = checkpoint.load(site.directory)
    report = Report("boot")
    start, extent = _starting_point(site, found, mark)
    survey = _Survey(site, mark, report, extent)
    for number, base in enumerate(found):
        if base >= start:
            _survey_segment(survey, base, found[number + 1 :])
            if survey.stopped:
                break
    survey.lose(survey.tail.next_offset, survey.durable)  # valid to its end, but the end is below what was durable
    resume = max(survey.resume, survey.durable, survey.tail.next_offset, 0 if site.strict else site.floor())
    base_and_end = _jump(site, survey.tail, survey.base, resume)
    for base in segment.bases(site.directory):
        if base >= start:
            quarantine.sync(site.directory, base)
    _finish(site, base_and_end, resume, survey.tail.newest_ms)
    return report


def _starting_point(site: Site, found: list[int], mark: Mark | None) -> tuple[int, Extent]:
    """(base of the segment to begin with, extent to begin at). A mark that no batch ends at only says what is durable."""
    if not found:
        return 0, Extent(0, mark.offset if mark else 0, 0)
    if mark is None:
        return found[-1], Extent(SEGMENT_HEADER_SIZE, found[-1], 0)
    base = segment.holding(found, mark.segment)
    if base is None:
        base = found[0]
    if base == mark.segment and mark.offset > base:
        with suppress(CorruptBatch):
            fd = files.open_read(segment.file_name(base), site.directory)
            try:
                header = segment.read_header(fd)
                size = files.size_of(fd)
                if mark.position <= size and _reaches(site, fd, header, mark.position, mark.offset):
                    last = index.find(site.directory, fd, header, mark.offset - 1, mark.position)
                    fields = fmt.parse_header(files.pread(fd, fmt.HEADER_SIZE, last), 0, header.salt)
                    return base, Extent(mark.position, mark.offset, fields[fmt.MAX_TIMESTAMP])
            finally:
                files.close(fd)
    return base, Extent(SEGMENT_HEADER_SIZE, base, 0)


def _survey_segment(survey: _Survey, base: int, later: list[int]) -> None:
    """Validate one segment; sets `stopped` when the log ends in it or before it."""
    site, tail = survey.site, survey.tail
    fd = files.open_write(segment.file_name(base), site.directory)
    try:
        header = segment.read_header(fd)
    except CorruptBatch:
        files.close(fd)
        _bad_segment(survey, base, later)
        return
    if survey.base >= 0 and base > tail.next_offset and not header.flags & fmt.JUMP:
        if not survey.is_damage(tail.next_offset, True):
            files.close(fd)
            _cut_segments(survey, [base, *later])
            return
        survey.lose(tail.next_offset, base)
    try:
        begin = tail if survey.base < 0 and tail.position else Extent(SEGMENT_HEADER_SIZE, base, tail.newest_ms)
        survey.base = base
        _survey_batches(survey, fd, header, begin, later)
    finally:
        files.close(fd)


def _survey_batches(survey: _Survey, fd: int, header: SegmentHeader, begin: Extent, later: list[int]) -> None:
    size = files.size_of(fd)
    while True:
        found = survey.tail = segment.scan(fd, header.salt, begin, size)
        if found.position == size:
            return
        following = segment.resync(fd, header.salt, found.position, size, found.next_offset)
        if not survey.is_damage(found.next_offset, following is not None or bool(later)):
            quarantine.cut(survey.site.directory, fd, header.base_offset, found.position, size)
            survey.report.cut_bytes += size - found.position
            _cut_segments(survey, later)
            return
        if following is None:
            # Damaged up to the end of the file: nothing may be appended behind it, so the log goes on in another segment.
            stop = later[0] if later else max(survey.durable, found.next_offset)
            survey.lose(found.next_offset, stop)
            survey.resume = max(survey.resume, stop)
            survey.tail = Extent(-1, stop, found.newest_ms)
            return
        position, fields = following
        survey.lose(found.next_offset, fields[fmt.BASE_OFFSET])
        begin = Extent(position, fields[fmt.BASE_OFFSET], max(found.newest_ms, 0))


def _bad_segment(survey: _Survey, base: int, later: list[int]) -> None:
    """The segment has no valid header, so its salt and with it every batch in it is out of reach."""
    if not survey.is_damage(base, bool(later)):
        _cut_segments(survey, [base, *later])
        survey.resume = max(survey.resume, base)
        return
    stop = later[0] if later else max(survey.durable, base)
    survey.lose(base, stop)
    survey.resume = max(survey.resume, stop)
    survey.base = base
    survey.tail = Extent(-1, stop, survey.tail.newest_ms)


def _cut_segments(survey: _Survey, later: list[int]) -> None:
    survey.stopped = True
    for base in reversed(later):  # the newest first, so that a crash in between leaves no hole
        quarantine.set_aside(survey.site.directory, base)


def _jump(site: Site, tail: Extent, base: int, next_offset: int) -> tuple[int, int]:
    """(segment, end) to go on at. Offsets are dense inside a segment; to skip some, or to leave damage behind, a new one is begun."""
    if base >= 0 and tail.position >= 0 and tail.next_offset == next_offset:
        return base, tail.position
    flags = fmt.JUMP if next_offset > tail.next_offset else 0
    segment.create(site.directory, next_offset, site.topic_uuid, site.partition, durable=True, flags=flags)
    return next_offset, SEGMENT_HEADER_SIZE


def _finish(site: Site, where: tuple[int, int], next_offset: int, newest_ms: int) -> None:
    """Store the slot, the boot tag last: until then nobody believes the rest."""
    base, end = where
    index.cut(site.directory, base, end)
    checkpoint.reset(site.directory, Mark(next_offset, base, end))
    words = site.words
    generation = (words[state.GENERATION] + 1) & 0xFFFFFFFF
    for word in range(state.SLOT_WORDS):
        words[word] = 0
    words[state.LOG_START] = segment.bases(site.directory)[0]
    words[state.SYNCED] = words[state.VISIBLE] = next_offset
    words[state.LAST_TS] = max(newest_ms, 0)
    words[state.GENERATION] = generation
    state.commit_tail(words, end, next_offset, base)
    words[state.TAG] = site.tag
