"""What may be removed of a log: whole sealed segments, the oldest first, told before it is done.

A segment goes when it is older than the topic keeps, and no group still waits for something in it. Above the topic's limit of bytes the
oldest go whoever waits: a group that nobody runs any more must not fill the disk. Whoever waited is given an exact gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from . import files, locate, segment
from .errors import CorruptBatch

if TYPE_CHECKING:
    from .partition import PartitionLog
    from .topic import Topic

T = TypeVar("T")

FOREVER = float("inf")
SHORTEST_SEAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Keep:
    """How long, and how much. age_s: since the next segment was begun; 0 keeps only what a group waits for. bytes: of all partitions."""

    age_s: float = FOREVER
    bytes: float = float("inf")


class Removed(NamedTuple):
    """What one look at a partition removed: segments, and how many offsets of them a group had not settled."""

    partition: int
    segments: int
    unsettled: int


class _Sealed(NamedTuple):
    """A segment that is complete. over_ms: when the next one was begun; next_base: its first offset."""

    over_ms: int
    partition: int
    base: int
    next_base: int
    size: int


def sweep(topic: Topic, keep: Keep, settled: Mapping[int, int] | None, now_ms: int, *, short_of_space: bool = False) -> list[Removed]:
    """Look at every partition once. settled: partition -> first offset that some group still needs; None without groups.

    short_of_space: what all groups have settled goes whatever its age. What nobody reads is kept for its age even then.
    """
    age_s = 0.0 if short_of_space and settled is not None else keep.age_s
    parts = [topic.partition(number) for number in range(topic.partition_count)]
    for part in parts:
        part.seal(max(min(keep.age_s / 2, topic.limits.segment_age_s), SHORTEST_SEAL_S))
    limits = {part.number: part.start() for part in parts}
    sealed: list[_Sealed] = []
    for part in parts:
        mine = _sealed(part)
        sealed += mine
        needed = FOREVER if settled is None else settled.get(part.number, 0)
        for one in takewhile(lambda one: one.over_ms <= now_ms - age_s * 1000 and one.next_base <= needed, mine):  # noqa: B023
            limits[part.number] = one.next_base
    over = sum(part.size_bytes() for part in parts) - keep.bytes
    for one in sealed:
        if one.next_base <= limits[one.partition]:
            over -= one.size
    for one in sorted(sealed):
        if over > 0 and one.next_base > limits[one.partition]:
            limits[one.partition] = one.next_base
            over -= one.size
    return [removed for part in parts if (removed := _remove(part, limits[part.number], settled)).segments]


def over(log: PartitionLog, due_ms: int, known: int) -> int:
    """Of a band: first offset of the oldest segment that holds a record not moved yet.

    due_ms, known: every record below the offset `known` that was due at `due_ms` or before has been moved.
    """
    found = segment.bases(log.directory)
    keep = found[0] if found else 0
    for base in found[1:]:
        # The highest due time up to and including the first batch of the next segment: of its own, and one more to be safe.
        latest = locate.first_newest(log.directory, base, log.slot)
        if base > known or latest is None or latest > due_ms:
            break
        keep = base
    return keep


def _remove(part: PartitionLog, limit: int, settled: Mapping[int, int] | None) -> Removed:
    start = part.start()
    count = part.remove_before(limit)
    needed = limit if settled is None else settled.get(part.number, 0)
    return Removed(part.number, count, max(limit - max(needed, start), 0) if count else 0)


def _sealed(part: PartitionLog) -> list[_Sealed]:
    found = segment.bases(part.directory)
    sealed: list[_Sealed] = []
    for base, following in pairwise(found):
        with suppress(FileNotFoundError, CorruptBatch):  # a header that cannot be read says no time: it stays for the readers to tell
            over_ms = _asked(part, following, segment.read_header).created_ms
            sealed.append(_Sealed(over_ms, part.number, base, following, _asked(part, base, files.size_of)))
    return sealed


def _asked(part: PartitionLog, base: int, ask: Callable[[int], T]) -> T:
    """What the open file of a segment says."""
    fd = files.open_read(segment.file_name(base), part.directory)
    try:
        return ask(fd)
    finally:
        files.close(fd)
