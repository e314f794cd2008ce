"""What must be true of a log after a crash, in the words of the guarantees. Looks at it with the real engine only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mqsdk_log.engine.errors import CorruptRange, NoSuchTopic, OutOfRange
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.reader import LogRecord

from tests.log.simfs.story import GROUP, NEVER_MS, TOPIC, Attempt, Known, Setting, open_log
from tests.log.simfs.system import System

READS = 10_000


class Broken(AssertionError):
    """A guarantee does not hold."""


class Expected:
    """What follows from the facts up to one moment."""

    def __init__(self, known: Known, facts: int) -> None:
        self.attempts: Sequence[Attempt] = known.attempts
        self.topic = self.group = False
        self.state: dict[int, str] = {}
        self.at: dict[int, bytes] = {}
        self.durable = self.removed = self.tail = 0
        self.durably_delayed: list[int] = []
        self.progress: list[tuple[int, int]] = []  # watermark and high, of every store that may be the newest on the medium
        self.owner: dict[bytes, int] = {}
        self.jumps: set[tuple[int, int]] = set()  # offsets that an earlier recovery left out, because a group had settled them
        for fact in known.facts[:facts]:
            self._take(fact)
        for number in self.state:
            for value in self.attempts[number].values:
                self.owner[value] = number

    def _take(self, fact: tuple[Any, ...]) -> None:
        match fact:
            case ("topic",):
                self.topic = True
            case "group", start:
                self.group = True
                self.progress = [(start, start)]
            case "try", number:
                self.state[number] = "tried"
            case "unknown" | "rejected" as how, number:
                self.state[number] = how
            case "stored", number, None:
                self.state[number] = "stored"
            case "stored", number, base:
                self.state[number] = "stored"
                for index, value in enumerate(self.attempts[number].values):
                    self.at[base + index] = value
            case "recovered", end, tail:
                self.jumps.add((end, tail))
                self.at = {offset: value for offset, value in self.at.items() if offset < end}
            case "seen", position, value:
                self.at[position] = value
            case "durable", below:
                self.topic, self.durable = True, max(self.durable, below)
            case "delayed durably", number:
                self.topic = True
                self.durably_delayed.append(number)
            case "remove", below:
                self.removed = max(self.removed, below)
            case "progress", watermark, high:
                self.progress.append((watermark, high))
            case "progress synced", watermark, high:
                self.group, self.progress = True, [(watermark, high)]
            case _:
                raise AssertionError(f"no such fact: {fact}")


class Seen(NamedTuple):
    """What a reader got: records, and the ranges that it was told are damaged."""

    records: list[LogRecord]
    gaps: list[tuple[int, int]]


def read(part: PartitionLog) -> Seen:
    """Everything from the start on. Broken when the reader does not come to an end."""
    reader = part.reader(part.start())
    seen = Seen([], [])
    try:
        for _ in range(READS):
            try:
                found = reader.read(1000, 1 << 24)
            except CorruptRange as gap:
                seen.gaps.append((gap.start, gap.stop))
                reader.seek(gap.stop)
                continue
            except OutOfRange as gap:
                raise Broken(f"the start {part.start()} is out of range, the first is {gap.first}") from gap
            if not found:
                return seen
            seen.records.extend(found)
    finally:
        reader.close()
    raise Broken("the reader comes to no end")


def check(
    system: System, setting: Setting, expected: Expected, *, killed: bool, lives: bool = False, extend: Known | None = None
) -> Seen | None:
    """Open what a crash left and compare. Returns what was read, None without a topic.

    killed: everything answered is there. lives: the machine goes on, so there may be whole batches that were not published. extend: told of
    what is appended at the end.
    """
    log = open_log(system, setting.durability, setting.limits)
    try:
        try:
            part = log.topic(TOPIC).partition(0)
        except NoSuchTopic:
            if expected.topic:
                raise Broken("the topic is gone") from None
            return None
        seen = read(part)
        _check_records(part, seen, setting, expected, killed=killed)
        if (killed or lives) and not part.is_read_only:
            part.remove_before(part.start())  # the next writer finds whole batches that the victim had not published yet
            seen = read(part)
            _check_records(part, seen, setting, expected, killed=killed)
        if extend is not None:
            extend.tell("recovered", seen.records[-1].position + 1 if seen.records else part.start(), part.tail())
        _check_progress(system, part, expected, killed=killed)
        if _is_read_only(part):
            if not killed:
                raise Broken("read-only although the machine has booted again")
            return None
        if setting.delays:
            _check_delayed(part, expected, killed=killed)
        _check_next(part, extend)
        return read(part)
    finally:
        log._forget()


def _is_read_only(part: PartitionLog) -> bool:
    """It, or a band of what is delayed in it: since a sync failed, which the death of a process does not change."""
    assert part.delays is not None
    bands = part.delays._bands
    return part.is_read_only or any(bands.topic(number).partition(part.number).is_read_only for number in bands.existing())


def look(system: System, setting: Setting) -> Seen | None:
    """Open what a crash left and read it."""
    log = open_log(system, setting.durability, setting.limits)
    try:
        return read(log.topic(TOPIC).partition(0))
    except NoSuchTopic:
        return None
    finally:
        log._forget()


def _check_records(part: PartitionLog, seen: Seen, setting: Setting, expected: Expected, *, killed: bool) -> None:
    positions = [record.position for record in seen.records]
    if positions != sorted(set(positions)):
        raise Broken(f"offsets are not ascending: {positions}")
    _check_gaps(part, seen, setting, expected, killed=killed)
    counts: dict[bytes, int] = {}
    for record in seen.records:
        value = record.value
        owner = expected.owner.get(value)
        if owner is None:
            raise Broken(f"offset {record.position} holds {value[:30]!r}..., which nobody had published")
        if record.position in expected.at and expected.at[record.position] != value:
            raise Broken(f"offset {record.position} was given to {expected.at[record.position][:20]!r} and holds {value[:20]!r}")
        if expected.state[owner] == "rejected":
            raise Broken(f"offset {record.position} holds {value[:20]!r}, which was rejected")
        counts[value] = counts.get(value, 0) + 1
        if counts[value] > 1:
            raise Broken(f"{value[:20]!r} is there twice, at the offset {record.position} too")
    there = set(positions)
    for offset, value in expected.at.items():
        sure = killed or offset < expected.durable
        if sure and offset >= max(expected.removed, 0) and offset not in there:
            raise Broken(
                f"offset {offset}, {value[:20]!r}, is lost; durable up to {expected.durable}, there {_ranges(positions)}, gaps {seen.gaps}"
            )


def _check_gaps(part: PartitionLog, seen: Seen, setting: Setting, facts: Expected, *, killed: bool) -> None:
    """Offsets are dense, or the hole was told exactly, which only `always` may do, or it was left on purpose above all that is there."""
    expected = part.start()
    told = iter(sorted(seen.gaps))
    for position in [*(record.position for record in seen.records), None]:
        if position == expected:
            expected += 1
            continue
        while (gap := next(told, None)) is not None:
            if gap[0] != expected or (position is not None and gap[1] > position):
                raise Broken(f"the reader told of a gap {gap} where offset {expected} was to come")
            if (killed or setting.durability != "always") and gap[0] >= facts.removed:
                raise Broken(f"offsets {gap} are told as damaged, where a prefix was promised")
            expected = gap[1]
            if position is not None and expected >= position:
                break
        if position is not None and expected != position and (expected, position) not in facts.jumps:
            raise Broken(f"offsets {expected} to {position} are passed over in silence")
        expected = expected + 1 if position is None else position + 1


def _check_progress(system: System, part: PartitionLog, expected: Expected, *, killed: bool) -> None:
    group = Group(system.path, GROUP)
    if not group.knows(TOPIC):
        if expected.group:
            raise Broken("the group and its progress are gone")
        return
    file = group.cursors(TOPIC)
    try:
        found = file.read(0)
    finally:
        file.close()
    possible = expected.progress[-2:] if killed else expected.progress  # the last one may not have been answered
    if possible and (found.watermark, found.high) not in possible:
        raise Broken(f"progress ({found.watermark}, {found.high}) was never stored, or an older one than the synced; possible {possible}")
    tail = part.tail()
    if max(found.high, found.watermark) > tail:
        raise Broken(f"the group has settled up to {max(found.high, found.watermark)}, the log ends at {tail}")


def _check_delayed(part: PartitionLog, expected: Expected, *, killed: bool) -> None:
    """All that is due comes, once."""
    for _ in range(100):
        if not part.move(NEVER_MS):
            break
    else:
        raise Broken("what is delayed never ends to be due")
    part.delays.checkpoint()  # type: ignore[union-attr]  # as somebody does all 10 s: a victim may have moved without a sync
    counts: dict[bytes, int] = {}
    for record in read(part).records:
        counts[record.value] = counts.get(record.value, 0) + 1
        owner = expected.owner.get(record.value)
        if owner is None or expected.state[owner] == "rejected":
            raise Broken(f"offset {record.position} holds {record.value[:20]!r}, which nobody published, or which was rejected")
    twice = [value[:20] for value, count in counts.items() if count > 1]
    if twice:
        raise Broken(f"delayed more than once there: {twice}")
    sure = set(expected.durably_delayed)
    if killed:
        sure |= {number for number, state in expected.state.items() if state == "stored" and expected.attempts[number].delayed}
    for number in sure:
        lost = [value[:20] for value in expected.attempts[number].values if value not in counts]
        if lost:
            raise Broken(f"delayed and lost: {lost}")


def _check_next(part: PartitionLog, extend: Known | None) -> None:
    """The log goes on, behind everything."""
    value = b"after the crash"
    part.sync()  # what a killed process left unsynced is not to be seen yet with `always`
    tail, before = part.tail(), len(read(part).records)
    number = extend.attempt((value,)) if extend is not None else -1
    base = part.append([(None, b"", value, 0, 0, 1)], timestamp_ms=NEVER_MS, durable=True)
    if extend is not None:
        extend.tell("stored", number, base)
        extend.tell("durable", base + 1)
    if base != tail:
        raise Broken(f"the next record was given {base}, the log ended at {tail}")
    now = read(part)
    if len(now.records) != before + 1 or now.records[-1].position != base or now.records[-1].value != value:
        raise Broken(f"a record appended after the crash at {base} is not read back as the last of {before + 1}")


def _ranges(positions: list[int]) -> str:
    return f"{positions[0]} to {positions[-1]} ({len(positions)})" if positions else "nothing"
