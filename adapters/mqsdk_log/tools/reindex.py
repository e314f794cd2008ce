"""`mqsdk log reindex`: indexes made anew from the segments, beside live processes, and shown to be what they should be."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from mqsdk.spi.tools import Call, Field, Plan, Report, Table
from mqsdk_log.engine import files, index, segment
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptBatch
from mqsdk_log.engine.format import SEGMENT_HEADER_SIZE
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.topic import Topic
from mqsdk_log.tools import verify
from mqsdk_log.tools.survey import PartitionView, TopicView
from mqsdk_log.tools.target import Target
from mqsdk_log.tools.verify import Gauge

_LOCK_S = 10.0


class Made(NamedTuple):
    """Of one segment. entries: now. differing: how many were there before and are not, or the other way round. broken: why what was there
    before was no index. proof: why what is there now is none; "" as it should be."""

    entries: int
    differing: int
    broken: str
    proof: str


def plan(call: Call) -> Plan:
    """The indexes of a topic, or of all."""
    target = Target(call)
    with target.opened() as root:
        names = target.chosen(root, call.values["topic"])
        size = verify.total_bytes(root, names)
    steps = [f"make the indexes of {len(names):,} topics anew from {size:,} bytes of segments"] if names else []
    return Plan(steps, lambda advance: _apply(target, names, call.values["topic"], advance))


def _apply(target: Target, names: list[str], named: str | None, tell: Callable[[int, int], None]) -> Report:
    rows: list[dict[str, Any]] = []
    options = target.options
    with target.opened() as root:
        gauge = Gauge(verify.total_bytes(root, names), tell)
        log = Log.open(target.path, durability=options.durability, create=False, any_filesystem=options.any_filesystem)
        try:
            for name in names:
                with target.unless_gone(named), root.topic(name) as view, view.bands() as bands, log.visit(name) as topic:
                    rows += _of_topic(view, topic, gauge)
                    for number, band in bands:
                        if topic.bands is not None:
                            rows += _of_topic(band, topic.bands.topic(number), gauge)
        finally:
            log.close()
    fields = [Field("topic"), Field("partition", True), Field("segments", True), Field("entries", True)]
    fields += [Field("before"), Field("delayed", True), Field("delayed_before"), Field("proof")]
    wrong = any(row["proof"] != "equal" for row in rows)
    return Report((Table("partitions", rows, fields, "there are no topics"),), wrong=wrong)


def _of_topic(view: TopicView, topic: Topic, gauge: Gauge) -> list[dict[str, Any]]:
    rows = []
    for number in range(view.partitions):
        with suppress(FileNotFoundError), view.partition(number) as partition:
            rows.append(_of_partition(partition, topic.partition(number), topic.has_delays, gauge))
    return rows


def _of_partition(view: PartitionView, log: PartitionLog, has_delays: bool, gauge: Gauge) -> dict[str, Any]:
    log.ensure_valid()
    tail = view.tail()
    assert tail is not None
    made = []
    for base in view.bases(tail):
        with suppress(FileNotFoundError), view.open(base) as fd:  # retention was faster
            made.append(_of_segment(view, base, fd, base == tail.segment))
            gauge(files.size_of(fd))
    waiting, same = log.delays.reindex() if has_delays and log.delays is not None else (0, True)
    differing = sum(one.differing for one in made)
    broken = next((one.broken for one in made if one.broken), "")
    return {
        "topic": view.topic.name,
        "partition": view.number,
        "segments": len(made),
        "entries": sum(one.entries for one in made),
        "before": broken or ("equal" if not differing else f"{differing:,} entries differed"),
        "delayed": waiting,
        "delayed_before": "equal" if same else "differed",
        "proof": next((one.proof for one in made if one.proof), "equal"),
    }


def _of_segment(view: PartitionView, base: int, fd: int, active: bool) -> Made:
    before = index.load(view.directory, base)
    broken = verify.index_problem(view, base, before)
    try:
        header = view.header(fd)
    except CorruptBatch as error:
        return Made(0, 0, broken, f"segment {base}: {error}")
    made = _active(view, base, fd, header.salt) if active else index.rebuild(view.directory, base, fd, header.salt, files.size_of(fd))
    after = index.load(view.directory, base)
    differing = len(set(before) ^ set(after))
    proof = f"segment {base}: not stored" if after[: len(made)] != made else proven(view, base, fd, header.salt, after)
    return Made(len(after), differing, broken, proof)


def _active(view: PartitionView, base: int, fd: int, salt: int) -> array[int]:
    """Of the segment that is being appended to: in its place, for appenders have it open, and the last part under their lock."""
    done = files.size_of(fd) if (now := view.tail()) is None else now.end
    entries = index.entries_of(base, fd, salt, SEGMENT_HEADER_SIZE, done)
    lock = files.open_create("lock", view.directory)
    try:
        with files.locked(lock, deadline=time.monotonic() + _LOCK_S, what=f"{view.topic.name}/{view.number}"):
            tail = view.tail()
            if tail is None or tail.segment != base:  # sealed meanwhile
                return index.rebuild(view.directory, base, fd, salt, files.size_of(fd))
            start = max(done, SEGMENT_HEADER_SIZE)
            entries += index.entries_of(base, fd, salt, start, tail.end, entries[-1] & 0xFFFFFFFF if entries else 0)
            if entries or view.size_of(segment.index_name(base)):
                _store_in_place(view, base, entries)
    finally:
        files.close(lock)
    return entries


def _store_in_place(view: PartitionView, base: int, entries: array[int]) -> None:
    place = files.open_create(segment.index_name(base), view.directory)
    try:
        files.ftruncate(place, 0)
        files.write_all(place, entries.tobytes(), 0)
    finally:
        files.close(place)


def proven(view: PartitionView, base: int, fd: int, salt: int, entries: array[int]) -> str:
    """Walk over every batch: the index leads to it, by offset and by time. "" when it does, else what it does not do."""
    at = 0
    places = {entry & 0xFFFFFFFF: entry >> 32 for entry in entries}
    newest = -(1 << 63)
    for position, fields in segment.surviving(fd, salt, SEGMENT_HEADER_SIZE, view.limit(base, fd, view.tail())):
        offset = fields[fmt.BASE_OFFSET]
        if position in places and places.pop(position) != offset - base:
            return f"segment {base}: an entry names another offset than the batch at {position}"
        while at < len(entries) and entries[at] >> 32 <= offset - base:
            at += 1
        if index.lookup(entries, base, offset) != (entries[at - 1] & 0xFFFFFFFF if at else SEGMENT_HEADER_SIZE):
            return f"segment {base}: offset {offset} is not found"
        if fields[fmt.MAX_TIMESTAMP] < newest:
            return f"segment {base}: the highest timestamp falls at position {position}, a place by time may be wrong behind it"
        newest = fields[fmt.MAX_TIMESTAMP]
    limit = view.limit(base, fd, view.tail())
    return f"segment {base}: an entry names no batch" if any(place < limit for place in places) else ""
