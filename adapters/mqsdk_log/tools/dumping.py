"""`mqsdk log dump`: records or batches of a topic as they are stored, checked on the way; what is damaged is told in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mqsdk.spi.tools import Call, Line, NotThere, Report
from mqsdk_log.engine import files
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptBatch
from mqsdk_log.engine.format import HEADER_SIZE, SEGMENT_HEADER_SIZE
from mqsdk_log.tools import walk
from mqsdk_log.tools.survey import PartitionView, Tail, TopicView
from mqsdk_log.tools.target import Target
from mqsdk_log.tools.walk import Batch, Course, Flaw

CODECS = {0: "none", 1: "zlib"}


@dataclass(frozen=True)
class Wanted:
    """What to show. low, high: offsets; from_ms, to_ms: times; half-open, None: no bound. body: bodies and headers too."""

    low: int | None
    high: int | None
    from_ms: int | None
    to_ms: int | None
    batches: bool
    body: bool

    def takes(self, offset: int, time_ms: int) -> bool:
        """Whether the record is meant."""
        if (self.low is not None and offset < self.low) or (self.high is not None and offset >= self.high):
            return False
        return (self.from_ms is None or time_ms >= self.from_ms) and (self.to_ms is None or time_ms < self.to_ms)


def dump(call: Call) -> Report:
    """Every record, or batch, of a topic, or of one partition."""
    return Report(lines=_lines(Target(call), call.values))


def _lines(target: Target, values: Any) -> Iterator[Line]:
    wanted = Wanted(
        _offset(values["from"]), _offset(values["to"]), _time_ms(values["from"]), _time_ms(values["to"]), values["batches"], values["body"]
    )
    with target.opened() as root:
        (name,) = target.chosen(root, values["topic"])
        with root.topic(name) as topic, topic.bands() as bands:
            shown = [band for _, band in bands] if values["delayed"] else [topic]
            number = values["partition"]
            if number is not None and number >= topic.partitions:
                raise NotThere(f"topic {name} has partitions 0 to {topic.partitions - 1}, not {number}", where=str(target.path))
            for one in shown:
                for part in range(topic.partitions) if number is None else (number,):
                    yield from _of_partition(one, part, wanted)


def _offset(place: int | datetime | None) -> int | None:
    return place if isinstance(place, int) else None


def _time_ms(place: int | datetime | None) -> int | None:
    return int(place.timestamp() * 1000) if isinstance(place, datetime) else None


def _of_partition(topic: TopicView, number: int, wanted: Wanted) -> Iterator[Line]:
    with suppress(FileNotFoundError), topic.partition(number) as view:
        tail = view.tail()
        bases = _from(view, tail, wanted)
        course, told = Course(0), 0
        for batch in walk.batches(view, tail, bases, course, lambda _more: None):
            yield from (_damaged(view, flaw) for flaw in course.flaws[told:])
            told = len(course.flaws)
            if wanted.high is not None and batch.fields[fmt.BASE_OFFSET] >= wanted.high:
                return
            yield from _batch_line(view, batch, wanted) if wanted.batches else _record_lines(view, batch, wanted)
        yield from (_damaged(view, flaw) for flaw in course.flaws[told:])


def _from(view: PartitionView, tail: Tail | None, wanted: Wanted) -> list[int]:
    """The segments that can hold what is wanted."""
    bases = view.bases(tail)
    first = 0
    for index, following in enumerate(bases[1:], 1):
        over = wanted.low is not None and following <= wanted.low
        newest = _first_newest(view, following) if wanted.from_ms is not None else None
        if over or (newest is not None and wanted.from_ms is not None and newest < wanted.from_ms):
            first = index
    return bases[first:]


def _first_newest(view: PartitionView, base: int) -> int | None:
    """The highest timestamp up to and including the first batch of a segment; it never falls."""
    with suppress(FileNotFoundError, CorruptBatch), view.open(base) as fd:
        header = view.header(fd)
        return fmt.parse_header(files.pread(fd, HEADER_SIZE, SEGMENT_HEADER_SIZE), 0, header.salt)[fmt.MAX_TIMESTAMP]
    return None


# --- lines ---------------------------------------------------------------------------------------------------------------------------


def _damaged(view: PartitionView, flaw: Flaw) -> Line:
    row = {
        "topic": view.topic.name,
        "partition": view.number,
        "segment": flaw.segment,
        "position": flaw.position,
        "damaged": [flaw.start, flaw.stop],
        "kind": flaw.kind,
        "what": flaw.what,
    }
    text = f"{view.number}:{flaw.start}-{flaw.stop}  {flaw.kind}: {flaw.what} (segment {flaw.segment}, position {flaw.position})"
    return Line(row, text, wrong=flaw.kind not in ("torn", "time", "stray"))


def _batch_line(view: PartitionView, batch: Batch, wanted: Wanted) -> Iterator[Line]:
    fields = batch.fields
    first, count = fields[fmt.BASE_OFFSET], fields[fmt.COUNT]
    if not (wanted.takes(first, fields[fmt.BASE_TIMESTAMP]) or wanted.takes(first + count - 1, fields[fmt.BASE_TIMESTAMP])):
        return
    codec = fields[fmt.ATTRIBUTES] & fmt.CODEC_MASK
    row = {
        "topic": view.topic.name,
        "partition": view.number,
        "segment": batch.segment,
        "position": batch.position,
        "offset": first,
        "records": count,
        "bytes": HEADER_SIZE + fields[fmt.BODY_LENGTH],
        "time": _time(fields[fmt.BASE_TIMESTAMP]),
        "newest": _time(fields[fmt.MAX_TIMESTAMP]),
        "codec": CODECS.get(codec, str(codec)),
        "control": bool(fields[fmt.ATTRIBUTES] & fmt.CONTROL),
        "meta_size": fields[fmt.WIDTH],
        "producer": f"{fields[10]:016x}" if fields[10] else None,
        "sequence": fields[11] if fields[10] else None,
    }
    text = f"{view.number}:{first}  {row['time']}  segment {batch.segment} position {batch.position}  {count} records  {row['bytes']} bytes"
    if fields[10]:
        text += f"  producer={row['producer']} sequence={row['sequence']}"
    yield Line(row, text)


def _record_lines(view: PartitionView, batch: Batch, wanted: Wanted) -> Iterator[Line]:
    fields = batch.fields
    if fields[fmt.ATTRIBUTES] & fmt.CONTROL:
        return
    for index, (time_ms, key, block, value, attempt, word) in enumerate(walk.records(batch.body, fields)):
        offset = fields[fmt.BASE_OFFSET] + index
        if not wanted.takes(offset, time_ms):
            continue
        pairs = _headers(block)
        row: dict[str, Any] = {
            "topic": view.topic.name,
            "partition": view.number,
            "offset": offset,
            "segment": batch.segment,
            "position": batch.position,
            "time": _time(time_ms),
            "id": next((text for name, text in pairs or () if name == "mq-id"), None),
            "key": None if key is None else key.decode("utf-8", "surrogateescape"),
            "attempt": attempt,
            "headers": None if pairs is None else len(pairs),
            "bytes": len(value),
            "sha256": hashlib.sha256(value).hexdigest()[:16],
        }
        if word is not None:
            row |= {"due": _time(word)} if " delay " in view.topic.name else {"moved_from": word}
        if wanted.body:
            row["headers"] = None if pairs is None else dict(pairs)
            row["body"] = value.decode("utf-8", "backslashreplace")
        yield Line(row, _record_text(row, wanted.body))


def _record_text(row: dict[str, Any], body: bool) -> str:
    parts = [f"{row['partition']}:{row['offset']}", row["time"], row["id"] or "-"]
    if row["key"] is not None:
        parts.append(f"key={row['key']}")
    if "due" in row:
        parts.append(f"due={row['due']}")
    parts += [f"attempt={row['attempt']}", f"{row['bytes']} bytes", f"sha256={row['sha256']}"]
    text = "  ".join(parts)
    return f"{text}\n    {row['body']}" if body else text


def _headers(block: bytes) -> list[tuple[str, str]] | None:
    """None where the block is none, which is how somebody wrote it: the body's checksum was right."""
    try:
        pairs = fmt.decode_headers(block)
    except CorruptBatch:
        return None
    return [(name.decode("utf-8", "backslashreplace"), value.decode("utf-8", "backslashreplace")) for name, value in pairs]


def _time(time_ms: int) -> str:
    """ISO 8601 in UTC; the number itself where no calendar has it."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(time_ms)
