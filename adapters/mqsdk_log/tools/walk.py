"""Every byte of a partition's segments, in order: which batches are good, and where exactly what is damaged begins and ends.

The ranges are those that a reader gives as a gap: from the first offset that cannot be read to the next whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mqsdk_log.engine import format as fmt
from mqsdk_log.engine import segment
from mqsdk_log.engine.checkpoint import Mark
from mqsdk_log.engine.errors import CorruptBatch, UnsupportedVersion
from mqsdk_log.engine.format import HEADER_SIZE, SEGMENT_HEADER_SIZE, Fields, SegmentHeader
from mqsdk_log.tools.survey import PartitionView, Tail

Advance = Callable[[int], None]  # told how many more bytes were looked at
_PRODUCERS = 100_000  # whose last sequence is remembered, so that memory stays bounded


class Flaw(NamedTuple):
    """Something that is not as the format says. kind: damage (acknowledged records cannot be read), torn (an end that the next append
    cuts off), unsupported (of a later version), order (a segment contradicts its name or the one before it), time (a timestamp falls that
    should not), stray (bytes behind the last batch that hold no record).

    position, stop_position: bytes of the segment; start, stop: offsets. All half-open.
    """

    kind: str
    segment: int
    position: int
    stop_position: int
    start: int
    stop: int
    what: str


@dataclass
class Course:
    """What a walk has seen so far. expected: the next offset; newest: the highest timestamp."""

    expected: int
    newest: int = -(1 << 63)
    records: int = 0
    batches: int = 0
    repeats: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)


class Segment(NamedTuple):
    """One to be walked through. limit: where it ends; following: the base of the next one, None for the newest."""

    fd: int
    header: SegmentHeader
    limit: int
    following: int | None


class Batch(NamedTuple):
    """A batch that is good to its last byte. body: as encoded, inflated where it was compressed."""

    segment: int
    position: int
    fields: Fields
    body: bytes


def through(view: PartitionView, tail: Tail | None, bases: list[int], advance: Advance) -> Course:
    """Look at every batch of these segments."""
    course = Course(bases[0] if bases else 0)
    for _ in batches(view, tail, bases, course, advance):
        pass
    return course


def batches(view: PartitionView, tail: Tail | None, bases: list[int], course: Course, advance: Advance) -> Iterator[Batch]:
    """Every good batch of these segments, which are consecutive and end with the newest; the rest is added to `course.flaws`."""
    mark = view.mark()
    course.expected = bases[0] if bases else 0
    if tail is not None and course.expected > tail.log_start and bases[:1] == view.bases(tail)[:1]:
        course.flaws.append(Flaw("damage", course.expected, 0, 0, tail.log_start, course.expected, "the oldest segments are missing"))
    for number, base in enumerate(bases):
        following = bases[number + 1] if number + 1 < len(bases) else None
        try:
            with view.open(base) as fd:
                yield from _segment(view, tail, mark, course, base, fd, following, advance)
        except FileNotFoundError:
            if following is not None and _is_removed(view, base):
                course.expected = following
    if tail is not None and course.expected < tail.next_offset:
        what = "the newest segment is shorter than what was published"
        last = bases[-1] if bases else tail.segment
        course.flaws.append(Flaw("damage", last, view.size(last), tail.end, course.expected, tail.next_offset, what))


def _is_removed(view: PartitionView, base: int) -> bool:
    """Whether retention took the segment while others were looked at."""
    now = view.tail()
    return now is None or now.log_start > base


def _segment(
    view: PartitionView, tail: Tail | None, mark: Mark | None, course: Course, base: int, fd: int, following: int | None, advance: Advance
) -> Iterator[Batch]:
    limit = view.limit(base, fd, tail)
    stop = following if following is not None else max(tail.next_offset if tail else 0, mark.offset if mark else 0, base)
    try:
        header = view.header(fd)
    except UnsupportedVersion as error:
        course.flaws.append(Flaw("unsupported", base, 0, limit, base, stop, str(error)))
        course.expected = max(course.expected, stop)
        return
    except CorruptBatch as error:
        verdict = _verdict(view, tail, mark, base, following is not None, following is not None)
        course.flaws.append(Flaw(verdict, base, 0, limit, min(course.expected, base), stop, f"{error}: nothing of the segment can be read"))
        course.expected = max(course.expected, stop)
        advance(limit)
        return
    _joint(view, course, base, header)
    course.expected = base
    advance(min(limit, SEGMENT_HEADER_SIZE))
    yield from _batches(view, tail, mark, course, Segment(fd, header, limit, following), stop, advance)


def _joint(view: PartitionView, course: Course, base: int, header: SegmentHeader) -> None:
    """Where one segment goes on after another."""
    foreign = (header.base_offset, header.topic_uuid, header.partition) != (base, view.topic.uuid, view.number)
    if foreign:
        course.flaws.append(Flaw("order", base, 0, SEGMENT_HEADER_SIZE, base, base, "its header is of another topic, partition or offset"))
    if base > course.expected and not header.flags & fmt.JUMP:
        what = "the segment before it ends too early"
        course.flaws.append(Flaw("damage", base, 0, 0, course.expected, base, what))
    if base < course.expected:
        course.flaws.append(
            Flaw("order", base, 0, SEGMENT_HEADER_SIZE, base, base, f"it begins below offset {course.expected}, where the one before ends")
        )


def _batches(
    view: PartitionView, tail: Tail | None, mark: Mark | None, course: Course, one: Segment, stop: int, advance: Advance
) -> Iterator[Batch]:
    window = segment.Window(one.fd, one.limit, 1 << 20)
    position = SEGMENT_HEADER_SIZE
    while position < one.limit:
        try:
            size, fields, body = _batch(window, one, position, course)
            yield Batch(one.header.base_offset, position, fields, body)
        except UnsupportedVersion as error:
            size, fields = _stepped_over(window, one, position)
            course.flaws.append(
                _flaw("unsupported", one, position, position + size, course.expected, course.expected + fields[fmt.COUNT], str(error))
            )
            course.expected += fields[fmt.COUNT]
        except CorruptBatch as error:
            after = segment.resync(one.fd, one.header.salt, position + 1, one.limit, course.expected + 1)
            verdict = _verdict(view, tail, mark, course.expected, after is not None, one.following is not None)
            if after is None:
                end = max(stop, course.expected) if verdict == "damage" else course.expected
                if verdict == "damage" and end == course.expected:
                    verdict = "stray"
                course.flaws.append(_flaw(verdict, one, position, one.limit, course.expected, end, str(error)))
                course.expected = end
                advance(one.limit - position)
                return
            resumed = after[1][fmt.BASE_OFFSET]
            course.flaws.append(_flaw(verdict, one, position, after[0], course.expected, resumed, str(error)))
            course.expected, size = resumed, after[0] - position
        advance(size)
        position += size


def _flaw(kind: str, one: Segment, position: int, stop_position: int, start: int, stop: int, what: str) -> Flaw:
    return Flaw(kind, one.header.base_offset, position, stop_position, start, stop, what)


def _verdict(view: PartitionView, tail: Tail | None, mark: Mark | None, offset: int, valid_after: bool, later: bool) -> str:
    """What recovery would call it (see the page on the format): what is published is damaged; behind a reboot it may be a torn end."""
    if tail is not None or later or (mark is not None and offset < mark.offset):
        return "damage"
    return "damage" if valid_after and (mark is None or view.topic.durability == "always") else "torn"


def _batch(window: segment.Window, one: Segment, position: int, course: Course) -> tuple[int, Fields, bytes]:
    """Check one batch to its last byte and note it. (size, header, body). CorruptBatch, UnsupportedVersion."""
    data, at = window.load(position, HEADER_SIZE)
    fields = fmt.parse_header(data, at, one.header.salt)
    size = HEADER_SIZE + fields[fmt.BODY_LENGTH]
    if fields[fmt.BASE_OFFSET] != course.expected:
        raise CorruptBatch("a batch has another offset than the one before it leaves to it")
    if position + size > one.limit:
        raise CorruptBatch("a batch reaches past the end of its segment")
    fmt.check_supported(fields)
    data, at = window.load(position, size)
    body = fmt.open_body(data[at + HEADER_SIZE : at + size], fields)
    if not adds_up(body, fields):
        raise CorruptBatch("the entries of a batch do not add up to its body")
    _note(course, one, position, fields)
    return size, fields, body


def _stepped_over(window: segment.Window, one: Segment, position: int) -> tuple[int, Fields]:
    data, at = window.load(position, HEADER_SIZE)
    fields = fmt.parse_header(data, at, one.header.salt)
    return HEADER_SIZE + fields[fmt.BODY_LENGTH], fields


def _note(course: Course, one: Segment, position: int, fields: Fields) -> None:
    if fields[fmt.MAX_TIMESTAMP] < course.newest:
        what = "the highest timestamp so far falls: a place by time behind it may be wrong"
        course.flaws.append(_flaw("time", one, position, position + HEADER_SIZE, course.expected, course.expected, what))
    course.newest = max(course.newest, fields[fmt.MAX_TIMESTAMP])
    producer, first = fields[10], fields[11]
    if producer:
        if first <= course.sequences.get(producer, -1):
            course.repeats += fields[fmt.COUNT]
        elif producer in course.sequences or len(course.sequences) < _PRODUCERS:
            course.sequences[producer] = first + fields[fmt.COUNT] - 1
    course.expected += fields[fmt.COUNT]
    course.records += fields[fmt.COUNT]
    course.batches += 1


def adds_up(body: bytes, fields: Fields) -> bool:
    """Whether the entries of the table account for the body to its last byte."""
    count, width = fields[fmt.COUNT], fields[fmt.WIDTH]
    total = count * width
    if total > len(body):
        return False
    table = memoryview(body)
    for place in range(0, total, width):
        _, value, key, block, _, _ = fmt.META.unpack_from(table, place)
        total += block + (0 if value == fmt.NULL else value) + (0 if key == fmt.NULL else key)
    return total == len(body)


def records(body: bytes, fields: Fields) -> Iterator[tuple[int, bytes | None, bytes, bytes, int, int | None]]:
    """(time ms, key, block of headers, value, attempt, word) of every record of a body that adds up; word: None where entries have none."""
    width = fields[fmt.WIDTH]
    at = fields[fmt.COUNT] * width
    words = fmt.decode_words(body, fields) or None
    for index in range(fields[fmt.COUNT]):
        delta, value_size, key_size, block_size, _, attempt = fmt.META.unpack_from(body, index * width)
        key = None if key_size == fmt.NULL else body[at : at + key_size]
        at += 0 if key_size == fmt.NULL else key_size
        block = body[at : at + block_size]
        at += block_size
        size = 0 if value_size == fmt.NULL else value_size
        value = body[at : at + size]
        at += size
        yield fields[fmt.BASE_TIMESTAMP] + delta, key, block, value, attempt, words[index][0] if words else None
