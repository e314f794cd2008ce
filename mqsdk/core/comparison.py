"""What two clusters have of one topic in stage `dual_write`: its messages on the source against their shadows on the target, by id.

By the minute in which a message was published, by the clock of its publisher. An id that stands somewhere twice, because its publish was
in doubt, counts once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

MINUTE_MS = 60_000
NAMED = 20  # ids that a minute names of each kind


class Published(NamedTuple):
    """One record: of which message, of which process (`mq-pid`), and when it was published."""

    id: str
    producer: str
    at_ms: int


class Minute(NamedTuple):
    """at_ms: its begin. source, target: messages. source_hash, target_hash: of their ids in any order. missing: ids that have no shadow,
    extra: shadows of nothing, the first ones; missing_count, extra_count: of all."""

    at_ms: int
    source: int
    target: int
    source_hash: str
    target_hash: str
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    missing_count: int = 0
    extra_count: int = 0

    @property
    def is_same(self) -> bool:
        return not self.missing_count and not self.extra_count and self.source_hash == self.target_hash


class Comparison(NamedTuple):
    """minutes: oldest first. under_way: messages so new that their shadow may still come. others: of processes that make no shadows, or had
    not begun with it. trouble: why nothing, or not all, was compared; "" for nothing."""

    minutes: tuple[Minute, ...] = ()
    under_way: int = 0
    others: int = 0
    trouble: str = ""


def compared(
    source: Iterable[Published], shadows: Iterable[Published], since_ms: Mapping[str, int], from_ms: int, settled_ms: int
) -> Comparison:
    """since_ms: by producer, all that it published after that has a shadow. from_ms: what is older is known, and not compared.
    settled_ms: what is newer may lack its shadow yet.
    """
    originals = {one.id: one for one in source}
    copies = {one.id: one for one in shadows}
    recent = [one for one in originals.values() if one.at_ms >= from_ms]
    doubled = [one for one in recent if one.at_ms > since_ms.get(one.producer, one.at_ms)]
    under_way = {one.id for one in doubled if one.id not in copies and one.at_ms > settled_ms}
    sides: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for one in doubled:
        if one.id not in under_way:
            minute = sides[one.at_ms // MINUTE_MS]
            minute[0].append(one.id)
            minute[1].extend([one.id] if one.id in copies else [])
    for one in copies.values():
        if one.id not in originals and one.at_ms >= from_ms:
            sides[one.at_ms // MINUTE_MS][1].append(one.id)
    known = {one.id for one in doubled} | copies.keys()
    others = sum(one.id not in known for one in recent)
    return Comparison(tuple(_minute(at, *sides[at]) for at in sorted(sides)), len(under_way), others)


def _minute(at: int, source: Sequence[str], target: Sequence[str]) -> Minute:
    missing, extra = sorted(set(source) - set(target)), sorted(set(target) - set(source))
    hashes = digest(source), digest(target)
    counts = len(missing), len(extra)
    return Minute(at * MINUTE_MS, len(source), len(target), *hashes, tuple(missing[:NAMED]), tuple(extra[:NAMED]), *counts)


def digest(ids: Iterable[str]) -> str:
    """Of a set of ids in any order: the sum of their hashes."""
    total = sum(int.from_bytes(blake2b(one.encode("utf-8", "surrogateescape"), digest_size=8).digest()) for one in ids)
    return f"{total % (1 << 64):016x}"
