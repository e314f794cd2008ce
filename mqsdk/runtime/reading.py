"""Reading a topic through its admin without touching any group: from a place, over all partitions, in publish order. Backend-neutral."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from mqsdk.spi import Admin, Record
from mqsdk.units import seconds

PAGE = (
    500  # records asked for at once: one read of the log holds about one batch or more, and a page stays under a few MiB of usual messages
)

Place = Literal["earliest", "latest"] | datetime | int


class Found(NamedTuple):
    """A record and where it is."""

    partition: int
    record: Record


def parse_place(text: str, now: datetime) -> Place:
    """`earliest`, `latest`, a position, a time (ISO 8601 with its zone) or a duration ago (`15m`). ValueError with a sentence."""
    if text in ("earliest", "latest"):
        return "earliest" if text == "earliest" else "latest"
    if text.isascii() and text.isdecimal() and len(text) <= 19:
        return int(text)
    return parse_time(text, now)


def parse_time(text: str, now: datetime) -> datetime:
    """An aware time from ISO 8601 with its zone, or from a duration ago. ValueError with a sentence."""
    try:
        return now - timedelta(seconds=seconds(text))
    except ValueError:
        pass  # not a duration; the sentence below names both forms
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("write a time as 2026-01-31T12:00:00Z, or how long ago as 15m") from None
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone: add Z or an offset such as +01:00")
    return moment.astimezone(UTC)


def position_of(admin: Admin, topic: str, partition: int, place: Place) -> int:
    """The position of a place in one partition. An int is taken as it is; a time is the first message published at or after it."""
    if isinstance(place, int):
        return place
    if isinstance(place, datetime):
        return admin.locate(topic, partition, int(place.timestamp() * 1000))
    first, end = admin.bounds(topic, partition)
    return first if place == "earliest" else end


def records(admin: Admin, topic: str, partition: int, start: int, stop: int | None = None) -> Iterator[Found]:
    """Records of one partition from `start` on, below `stop` (None: where the partition ends now). Reads page by page."""
    end = admin.bounds(topic, partition)[1] if stop is None else stop
    position = start
    while position < end:
        page = admin.read(topic, partition, position, PAGE)
        for record in page:
            if record.position >= end:
                return
            yield Found(partition, record)
        if not page:
            return
        position = page[-1].position + 1


def merged(admin: Admin, topic: str, starts: Mapping[int, int]) -> Iterator[Found]:
    """Records of several partitions (number -> start) by publish time, up to where each ends now."""
    return in_time_order(records(admin, topic, partition, start) for partition, start in starts.items())


def in_time_order(streams: Iterable[Iterator[Found]]) -> Iterator[Found]:
    return heapq.merge(*streams, key=lambda found: (found.record.timestamp_ms or 0, found.partition))


def last(admin: Admin, topic: str, partitions: Iterable[int], count: int) -> list[Found]:
    """The newest `count` records of these partitions, oldest first."""
    starts = {}
    for partition in partitions:
        first, end = admin.bounds(topic, partition)
        starts[partition] = max(first, end - count)
    return list(merged(admin, topic, starts))[-count:] if count else []
