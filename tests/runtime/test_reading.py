"""Reading through the admin: from a place, over partitions, up to where each ended when reading began."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mqsdk.runtime import reading
from mqsdk.spi import Admin, NewRecord, Partition, ProducerEvent, Record
from mqsdk.testing import SimBackend, SimLog

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Sink:
    def put(self, event: ProducerEvent, /) -> None:
        """Nothing is looked at."""


@pytest.fixture
def backend() -> SimBackend:
    backend = SimBackend(SimLog())
    backend.open(0.0)
    backend.admin().ensure_topic("t", 3)
    return backend


def put(backend: SimBackend, *records: tuple[int, int]) -> None:
    """Store (partition, publish time in ms) one after another."""
    new = [NewRecord(i, Partition("t", number), None, b"x", f"{number}@{ms}", ms) for i, (number, ms) in enumerate(records)]
    backend.producer(Sink()).publish(new, 0.0)


def found(records: object) -> list[str]:
    return [one.record.id or "" for one in records]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("1234567890123456789", 1234567890123456789),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00:00+01:00", NOW),
        ("2026-01-31T12:00:00.5+00:00", NOW + timedelta(milliseconds=500)),
        ("15m", NOW - timedelta(minutes=15)),
        ("1h30m", NOW - timedelta(minutes=90)),
    ],
)
def test_a_place_is_a_word_a_position_a_time_or_a_duration_ago(text: str, place: object) -> None:
    assert reading.parse_place(text, NOW) == place


@pytest.mark.parametrize("text", ["", "now", "-1", "1.5", "12345678901234567890", "2026-01-31", "2026-01-31T12:00:00", "5 minutes", "٣"])
def test_anything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a time as|needs its zone"):
        reading.parse_place(text, NOW)


def test_a_time_of_another_zone_is_the_same_moment(backend: SimBackend) -> None:
    put(backend, *[(0, ms) for ms in (1000, 2000, 3000)])
    place = datetime(1970, 1, 1, 1, 0, 2, tzinfo=timezone(timedelta(hours=1)))
    assert reading.position_of(backend.admin(), "t", 0, place) == 1
    assert reading.position_of(backend.admin(), "t", 0, "earliest") == 0
    assert reading.position_of(backend.admin(), "t", 0, "latest") == 3
    assert reading.position_of(backend.admin(), "t", 0, 2) == 2


def test_partitions_are_merged_by_publish_time(backend: SimBackend) -> None:
    put(backend, (0, 30), (0, 60), (1, 10), (1, 50), (2, 20), (2, 40))
    merged = reading.merged(backend.admin(), "t", {0: 0, 1: 0, 2: 1})
    assert found(merged) == ["1@10", "0@30", "2@40", "1@50", "0@60"]


def test_more_than_a_page_is_read_in_order(backend: SimBackend) -> None:
    put(backend, *[(0, ms) for ms in range(2 * reading.PAGE + 7)])
    assert found(reading.records(backend.admin(), "t", 0, 3)) == [f"0@{ms}" for ms in range(3, 2 * reading.PAGE + 7)]


def test_reading_ends_where_the_partition_ended_when_it_began(backend: SimBackend) -> None:
    """Else looking at a topic that is written faster than it is read would never end."""
    put(backend, (0, 1), (0, 2))
    records = reading.records(backend.admin(), "t", 0, 0)
    first = next(records)
    put(backend, (0, 3))
    assert found([first, *records]) == ["0@1", "0@2"]


def test_a_given_end_is_kept(backend: SimBackend) -> None:
    put(backend, *[(0, ms) for ms in range(5)])
    assert found(reading.records(backend.admin(), "t", 0, 1, 3)) == ["0@1", "0@2"]


def test_a_page_that_comes_back_empty_ends_the_reading() -> None:
    """Positions may have holes at the end (what retention took): the end is above the last record."""

    class Hollow(Admin):
        def bounds(self, topic: str, partition: int) -> tuple[int, int]:
            return 0, 10

        def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
            return [Record(4, None, b"x")] if position <= 4 else []

    assert [one.record.position for one in reading.records(Hollow(), "t", 0, 0)] == [4]


def test_the_last_ones_over_all_partitions(backend: SimBackend) -> None:
    put(backend, (0, 30), (0, 60), (1, 10), (1, 50), (2, 20), (2, 40))
    assert found(reading.last(backend.admin(), "t", range(3), 3)) == ["2@40", "1@50", "0@60"]
    assert found(reading.last(backend.admin(), "t", [1], 9)) == ["1@10", "1@50"]
