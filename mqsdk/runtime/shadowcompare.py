"""Reads what both clusters of a topic in `dual_write` have of the last minutes, and compares it. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from mqsdk.core.comparison import MINUTE_MS, Comparison, Published, compared
from mqsdk.core.move import Move
from mqsdk.errors import MqError
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.shadowing import SHADOW_OF_DELAYED
from mqsdk.spi import Admin, Record
from mqsdk.spi.events import SHADOW

MINUTES = (5, 2, 1)  # so many, the present one included; fewer where those hold too much
SLACK_MS = 60_000  # a shadow may come so much later than its message
UNDER_WAY_MS = 15_000  # beyond the time that a publish has by default
AT_ONCE = 1000
MOST = 50_000  # messages of one side: about half a second of reading


class _TooMany(Exception):
    """More of them than are read."""


def comparison(clusters: Clusters, move: Move, since_ms: Mapping[str, int], now_ms: int) -> Comparison:
    """Of the last minutes. since_ms: as processes report it, by producer. Delayed messages are not compared: their shadows are not delayed.

    Both sides have to be readable by position; else, or without an answer, `trouble` says so.
    """
    for name in (move.source, move.target):
        capabilities = clusters.backend(name).capabilities
        if not (capabilities.read_by_position and capabilities.by_time):
            return Comparison(trouble=f"cluster {name} ({clusters.backend(name).kind}) cannot be read by position")
    try:
        source, target = (clusters.backend(name).admin() for name in (move.source, move.target))
        for minutes in MINUTES:
            from_ms = (now_ms // MINUTE_MS - minutes + 1) * MINUTE_MS
            try:
                shadows = list(_published(target, move.topic, from_ms, _is_shadow))  # first: what has one is on the source by then
                originals = list(_published(source, move.topic, from_ms - SLACK_MS, _is_original))
            except _TooMany:
                continue
            return compared(originals, shadows, since_ms, from_ms, now_ms - UNDER_WAY_MS)
    except MqError as error:
        return Comparison(trouble=error.what)
    return Comparison(trouble=f"the last minute alone has more than {MOST:,} messages")


def _is_original(record: Record) -> bool:
    return record.due_ms is None and not record.shadow


def _is_shadow(record: Record) -> bool:
    return (SHADOW, SHADOW_OF_DELAYED) not in record.extra and record.shadow


def _published(admin: Admin, topic: str, from_ms: int, wanted: Callable[[Record], bool]) -> Iterator[Published]:
    count = 0
    for number in range(admin.partitions(topic) or 0):
        for record in _records(admin, topic, number, from_ms):
            count += 1
            if count > MOST:
                raise _TooMany
            if record.id is not None and wanted(record):
                yield Published(record.id, record.producer, record.timestamp_ms or 0)


def _records(admin: Admin, topic: str, number: int, from_ms: int) -> Iterator[Record]:
    """Up to the end that there is now: the topic is written to meanwhile."""
    position, end = admin.locate(topic, number, from_ms), admin.bounds(topic, number)[1]
    while position < end:
        found = admin.read(topic, number, position, AT_ONCE)
        if not found:
            return
        yield from (record for record in found if record.position < end)
        position = found[-1].position + 1
