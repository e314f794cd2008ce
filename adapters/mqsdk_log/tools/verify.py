"""`mqsdk log verify`: every checksum and everything that must agree with it; what is wrong, where exactly, and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mqsdk.spi.tools import Remark
from mqsdk_log.engine import checkpoint, damage, files, index, segment
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import BadRoot, CorruptBatch, UnsupportedVersion
from mqsdk_log.tools import progress, walk
from mqsdk_log.tools.survey import PartitionView, Root, Tail, TopicView
from mqsdk_log.tools.walk import Course, Flaw

REPAIR, REINDEX = "mqsdk log repair", "mqsdk log reindex"
MARK_ANEW = "write the durable mark anew"
WRONG = ("damage", "order", "failed", "hint", "unsupported")  # what makes the log not clean; everything else is told and harmless
LOOKS, PAUSE_S = 3, 0.02  # what a live writer is just changing looks wrong once, not three times


class Finding(NamedTuple):
    """Something to tell. kind: as of a Flaw, or known (lost, and told before), failed (read-only after a failed sync), hint (an index or
    another file that can be made anew), note. flaw: where in the segments. remedy: what `repair` does, where the flaw does not say it.
    lost: how many offsets cannot be read.
    """

    topic: str
    partition: int | None
    kind: str
    what: str
    fix: str = ""
    flaw: Flaw | None = None
    remedy: str = ""
    lost: int = 0

    @property
    def remark(self) -> Remark:
        """As people read it."""
        where = self.topic if self.partition is None else f"{self.topic}/{self.partition}"
        if self.flaw is not None:
            where += f", segment {self.flaw.segment}, position {self.flaw.position}"
        return Remark(self.kind, where, self.what, self.fix)

    @property
    def row(self) -> dict[str, Any]:
        """In JSON."""
        flaw = self.flaw
        return {
            "topic": self.topic,
            "partition": self.partition,
            "kind": self.kind,
            "segment": None if flaw is None else flaw.segment,
            "position": None if flaw is None else flaw.position,
            "bytes": None if flaw is None else flaw.stop_position - flaw.position,
            "start": None if flaw is None else flaw.start,
            "stop": None if flaw is None else flaw.stop,
            "what": self.what,
            "fix": self.fix,
        }


@dataclass
class Verdict:
    """Of one partition of a topic or of a band. is_cold: its slot of the state page is not of this boot and place."""

    topic: str
    partition: int
    segments: int
    start: int
    end: int
    course: Course
    is_cold: bool
    findings: list[Finding] = field(default_factory=list)

    @property
    def row(self) -> dict[str, Any]:
        """In JSON."""
        wrong = sum(one.kind in WRONG for one in self.findings)
        return {
            "topic": self.topic,
            "partition": self.partition,
            "segments": self.segments,
            "start": self.start,
            "end": self.end,
            "records": self.course.records,
            "batches": self.course.batches,
            "repeats": self.course.repeats,
            "problems": wrong,
        }


def summed(verdicts: list[Verdict], findings: list[Finding]) -> list[dict[str, Any]]:
    """One row per topic and band."""
    rows: dict[str, dict[str, Any]] = {}
    for name in [*(one.topic for one in verdicts), *(one.topic for one in findings)]:
        rows.setdefault(name, {"topic": name, "partitions": 0, "segments": 0, "records": 0, "repeats": 0, "problems": 0})
    for one in verdicts:
        row = rows[one.topic]
        row["partitions"] += 1
        row["segments"] += one.segments
        row["records"] += one.course.records
        row["repeats"] += one.course.repeats
    for finding in findings:
        rows[finding.topic]["problems"] += finding.kind in WRONG
    return list(rows.values())


class Gauge:
    """How many bytes have been looked at, of how many."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self._total, self._tell, self._done, self._told = total, tell, 0, 0

    def __call__(self, more: int) -> None:
        self._done += more
        if self._done - self._told >= 1 << 20 or self._done >= self._total:
            self._told = self._done
            self._tell(min(self._done, self._total), self._total)


def total_bytes(root: Root, names: list[str]) -> int:
    """Bytes of all segments of these topics, their bands included."""
    total = 0
    for name in names:
        with suppress(Exception), root.topic(name) as topic, topic.bands() as bands:
            for view in each_partition([topic, *(band for _, band in bands)]):
                total += sum(view.size(base) for base in segment.bases(view.directory))
    return total


def each_partition(topics: list[TopicView]) -> Iterator[PartitionView]:
    for topic in topics:
        for number in range(topic.partitions):
            with suppress(FileNotFoundError), topic.partition(number) as view:
                yield view


def topic(root: Root, name: str, advance: walk.Advance) -> tuple[list[Verdict], list[Finding]]:
    """(one verdict per partition and band, what concerns no partition). NoSuchTopic."""
    try:
        with root.topic(name) as view, view.bands() as bands:
            verdicts: list[Verdict] = []
            findings: list[Finding] = _of_topic(view)
            for one in [view, *(band for _, band in bands)]:
                for number in range(one.partitions):
                    findings += _partition(one, number, verdicts, advance)
            findings += _groups(root, view, verdicts)
            findings += _marks(view)
            findings += _cold(verdicts)
            return verdicts, findings
    except (BadRoot, UnsupportedVersion) as error:
        kind = "unsupported" if isinstance(error, UnsupportedVersion) else "damage"
        return [], [Finding(name, None, kind, str(error))]


def _cold(verdicts: list[Verdict]) -> list[Finding]:
    """A note per topic after a reboot or in a copy."""
    what = "not opened since the boot, or a copy: the next append looks at the files from the durable mark on"
    names = {one.topic: sum(other.is_cold for other in verdicts if other.topic == one.topic) for one in verdicts if one.is_cold}
    return [Finding(name, None, "note", f"{count} partitions: {what}") for name, count in names.items()]


def _partition(topic: TopicView, number: int, verdicts: list[Verdict], advance: walk.Advance) -> list[Finding]:
    try:
        with topic.partition(number) as view:
            verdicts.append(partition(view, advance))
    except FileNotFoundError:
        return [Finding(topic.name, number, "damage", "the directory of the partition is missing", "restore it from a copy")]
    return []


def partition(view: PartitionView, advance: walk.Advance) -> Verdict:
    """Look at everything of one partition but the progress of groups."""
    entries = {base: index.load(view.directory, base) for base in segment.bases(view.directory)}  # before the tail: it covers them
    tail = view.tail()
    bases = view.bases(tail)
    course = walk.through(view, tail, bases, advance)
    end = tail.next_offset if tail is not None else course.expected
    verdict = Verdict(view.topic.name, view.number, len(bases), bases[0] if bases else end, end, course, tail is None and bool(bases))
    add = verdict.findings.append
    known = view.topic.lost().get(view.number, [])
    for flaw in course.flaws:
        add(_told(view, flaw, known))
    for low, high in known:
        if high > verdict.start and not any(flaw.start < high and flaw.stop > low for flaw in course.flaws):
            what = f"offsets {low} to {high} (excluded) are lost; that has been recorded"
            add(Finding(view.topic.name, view.number, "known", what, lost=high - max(low, verdict.start)))
    verdict.findings += _tail(view, tail)
    verdict.findings += _checkpoint(view, course.expected)
    torn = {flaw.segment: flaw.position for flaw in course.flaws if flaw.kind == "torn"}  # entries behind it are cut off with it
    verdict.findings += _indexes(view, bases, entries, torn)
    return verdict


def _told(view: PartitionView, flaw: Flaw, known: list[tuple[int, int]]) -> Finding:
    kind, what, fix = flaw.kind, flaw.what, ""
    if kind == "damage":
        lost = f"{flaw.what}; offsets {flaw.start} to {flaw.stop} (excluded) cannot be read"
        is_known = any(low <= flaw.start and flaw.stop <= high for low, high in known)
        kind, what, fix = ("known", f"{lost}; that has been recorded", "") if is_known else (kind, lost, f"{REPAIR} {_folder(view)}")
    elif kind == "torn":
        what = f"{flaw.what}: a torn end that was never acknowledged as durable; the next append cuts it off and keeps a copy"
    elif kind == "unsupported":
        fix = "use the version of mqsdk that wrote it, or a later one"
    elif kind == "order":
        fix = "restore the segment from a copy"
    count = flaw.stop - flaw.start if kind in ("damage", "known") else 0
    return Finding(view.topic.name, view.number, kind, what, fix, flaw, lost=count)


def _folder(view: PartitionView) -> str:
    return f"{view.topic.name.split(' ')[0]} -p {view.number}"


def _of_topic(view: TopicView) -> list[Finding]:
    problem = progress.damage_problem(view.path / damage.NAME)
    if not problem:
        return []
    return [
        Finding(view.name, None, "hint", f"{damage.NAME}: {problem}", f"remove it; `{REPAIR} {view.name}` records anew what can be found")
    ]


def _tail(view: PartitionView, tail: Tail | None) -> list[Finding]:
    found: list[Finding] = []
    if tail is not None and tail.failed:
        what = "read-only: a sync failed in this boot, what came after the durable mark may not be on the medium"
        found.append(Finding(view.topic.name, view.number, "failed", what, f"{REPAIR} {_folder(view)}"))
    if tail is not None and (more := _behind(view, tail)) is not None:
        flaw = Flaw("torn", more.segment, more.position, more.stop_position, tail.next_offset, tail.next_offset, more.what)
        found.append(
            Finding(view.topic.name, view.number, "torn", f"{more.what}; the next append looks at it, cuts it off or keeps it", "", flaw)
        )
    return found


def _behind(view: PartitionView, tail: Tail) -> Flaw | None:
    """Bytes behind the published end that stay there: a writer died in the middle. One at work changes them between two looks."""
    last: tuple[int, int] | None = None
    for _ in range(LOOKS):
        size = view.size(tail.segment)
        if size <= tail.end or (last is not None and last != (tail.end, size)):
            return None
        last = tail.end, size
        time.sleep(PAUSE_S)
        now = view.tail()
        if now is None or now.segment != tail.segment:
            return None
        tail = now
    return Flaw("torn", tail.segment, tail.end, view.size(tail.segment), tail.next_offset, tail.next_offset, "bytes of a writer that died")


def _checkpoint(view: PartitionView, end: int) -> list[Finding]:
    bad, last = 0, -1
    for _ in range(LOOKS):
        copies, bad = checkpoint.copies(view.directory)
        last = max((mark.offset for mark in copies), default=-1)
        if not bad:
            break
        time.sleep(PAUSE_S)
    found = []
    if bad:
        what = f"{bad} of 2 copies of the durable mark fail their checksum"
        found.append(Finding(view.topic.name, view.number, "hint", what, f"{REPAIR} {_folder(view)}", remedy=MARK_ANEW))
    if last > end and (now := view.tail()) is not None and last > now.next_offset:
        what = f"the durable mark is at {last}, the log ends at {now.next_offset}"
        found.append(Finding(view.topic.name, view.number, "hint", what, f"{REPAIR} {_folder(view)}", remedy=MARK_ANEW))
    return found


def _indexes(view: PartitionView, bases: list[int], entries: dict[int, Any], torn: dict[int, int]) -> list[Finding]:
    found = []
    for base in bases:
        problem = ""
        for look in range(LOOKS):
            if look:
                time.sleep(PAUSE_S)
                entries[base] = index.load(view.directory, base)
            known = [entry for entry in entries.get(base, ()) if entry & 0xFFFFFFFF < torn.get(base, 1 << 32)]
            if not (problem := index_problem(view, base, known)):
                break
        if problem:
            what = f"the index of segment {base} {problem}: readers look for the way themselves"
            fix, remedy = f"{REINDEX} {view.topic.name.split(' ')[0]}", f"make the index of segment {base} anew"
            found.append(Finding(view.topic.name, view.number, "hint", what, fix, remedy=remedy))
    return found


def index_problem(view: PartitionView, base: int, entries: Any) -> str:
    """Why the entries are no index of the segment, "" when each of them leads to the batch that it names."""
    with suppress(FileNotFoundError, CorruptBatch, UnsupportedVersion), view.open(base) as fd:
        salt = view.header(fd).salt
        limit = view.limit(base, fd, view.tail())
        if view.size_of(segment.index_name(base)) % 8:
            return "has half an entry at its end"
        last = 0
        for entry in entries:
            position, offset = entry & 0xFFFFFFFF, base + (entry >> 32)
            if position <= last:
                return "is not in order"
            last = position
            with suppress(CorruptBatch):
                if position < limit and fmt.parse_header(files.pread(fd, fmt.HEADER_SIZE, position), 0, salt)[fmt.BASE_OFFSET] == offset:
                    continue
            return f"names a batch with offset {offset} where there is none"
    return ""


def _groups(root: Root, view: TopicView, verdicts: list[Verdict]) -> list[Finding]:
    ends = {one.partition: one.end for one in verdicts if one.topic == view.name}
    found: list[Finding] = []
    for group in progress.of_topic(root.path, view.name):
        where = f"progress of group {group.name}"
        if group.broken:
            found.append(Finding(view.name, None, "damage", f"{where}: {group.broken}", "delete the group or restore the file from a copy"))
        for number, (newest, damaged) in enumerate(group.copies):
            if newest is None:
                what, fix = f"{where}: both copies fail their checksum", "delete the group, then create it where it is to begin"
                found.append(Finding(view.name, number, "damage", what, fix))
            elif damaged:
                what = f"{where}: one of its two copies fails its checksum; the next settle writes it anew"
                found.append(Finding(view.name, number, "hint", what))
            elif newest.watermark > ends.get(number, newest.watermark):
                end = ends[number]
                found.append(Finding(view.name, number, "note", f"{where}: it is at {newest.watermark}, the log ends at {end}"))
    return found


def _marks(view: TopicView) -> list[Finding]:
    """How far delayed records have been moved, as it stands on the medium."""
    found = []
    with suppress(FileNotFoundError):
        directory = files.open_dir("delay", view.directory)
        try:
            for name in sorted(files.names(directory)):
                if name.endswith(".mark"):
                    data = files.read_all(name, directory)
                    if len(data) < 5 or fmt.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
                        what = f"delay/{name} fails its checksum: after a reboot delayed records that were moved may be moved again"
                        found.append(Finding(view.name, int(name.partition(".")[0]), "hint", what, "it is written anew within a minute"))
        finally:
            files.close(directory)
    return found
