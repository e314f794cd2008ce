"""What is removed of a log, and what is not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from mqsdk_log.engine import segment
from mqsdk_log.engine.errors import OutOfRange
from mqsdk_log.engine.retention import Keep, Removed, sweep
from mqsdk_log.engine.shared import Limits

SMALL = Limits(segment_bytes=1000, min_free_bytes=0)
DAY_MS = 86_400_000


def filled(kit: Any, count: int = 40, limits: Limits = SMALL) -> tuple[Any, Any]:
    """(topic, partition 0), with about nine records of 20 bytes a segment."""
    topic = kit.open(limits=limits).create_topic("orders", 2)
    for number in range(count):
        kit.append(topic.partition(0), b"%020d" % number)
    return topic, topic.partition(0)


def bases(partition: Any) -> list[int]:
    return segment.bases(partition.directory)


def in_a_day() -> int:
    return int(time.time() * 1000) + DAY_MS


def test_what_is_old_goes_by_whole_segments_and_the_active_one_stays(kit: Any) -> None:
    topic, partition = filled(kit)
    before = bases(partition)
    assert sweep(topic, Keep(age_s=2 * DAY_MS / 1000), None, in_a_day()) == []
    assert sweep(topic, Keep(age_s=3600.0), None, in_a_day()) == [Removed(0, len(before) - 1, 0)]
    assert bases(partition) == [before[-1]] == [partition.start()]
    assert kit.values(partition, before[-1]) == [b"%020d" % number for number in range(before[-1], 40)]
    assert not list(kit.directory().glob("*.idx"))[1:]


def test_what_a_group_needs_stays_however_old(kit: Any) -> None:
    topic, partition = filled(kit)
    middle = bases(partition)[2]
    assert [one.unsettled for one in sweep(topic, Keep(age_s=3600.0), {0: middle + 1, 1: 0}, in_a_day())] == [0]
    assert bases(partition)[0] == partition.start() == middle
    assert sweep(topic, Keep(age_s=3600.0), {0: 0, 1: 0}, in_a_day()) == []


def test_over_the_limit_of_bytes_the_oldest_go_whoever_waits(kit: Any) -> None:
    topic, partition = filled(kit)
    limit = partition.size_bytes() - 1500
    (removed,) = sweep(topic, Keep(bytes=limit), {0: 3, 1: 0}, int(time.time() * 1000))
    assert removed.segments == 2
    assert removed.unsettled == bases(partition)[0] - 3
    assert limit - 1000 < partition.size_bytes() <= limit + 200  # the other partition's header counts


def test_what_has_gone_for_its_age_counts_for_the_limit_of_bytes(kit: Any) -> None:
    topic, partition = filled(kit)
    (removed,) = sweep(topic, Keep(age_s=3600.0, bytes=1600), {0: bases(partition)[-2], 1: 0}, in_a_day())
    assert (removed.unsettled, len(bases(partition))) == (0, 2)


def test_when_space_is_short_what_is_settled_goes_young_or_not_and_nothing_else(kit: Any) -> None:
    topic, partition = filled(kit)
    now_ms = int(time.time() * 1000) + 1
    assert sweep(topic, Keep(), None, now_ms, short_of_space=True) == []
    middle = bases(partition)[2]
    assert sweep(topic, Keep(), {0: middle, 1: 0}, now_ms, short_of_space=True) == [Removed(0, 2, 0)]


def test_a_quiet_topic_is_sealed_and_goes_too(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, partition = filled(kit, 1)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 100)
    assert sweep(topic, Keep(age_s=150.0), None, int(time.time() * 1000)) == []
    assert len(bases(partition)) == 2
    monkeypatch.setattr(time, "time", lambda: clock() + 300)
    assert sweep(topic, Keep(age_s=150.0), None, int(time.time() * 1000)) == [Removed(0, 1, 0)]
    sweep(topic, Keep(age_s=150.0), None, int(time.time() * 1000))
    assert bases(partition) == [1]  # an empty one is not sealed again
    assert kit.append(partition, b"next") == 1


def test_a_reader_that_was_overtaken_is_told_exactly_and_one_in_the_middle_finishes_its_segment(kit: Any) -> None:
    _, partition = filled(kit)
    reader, late = partition.reader(0), partition.reader(3)
    assert len(reader.read(2, 1 << 20)) == 2
    bases_before = bases(partition)
    start = bases_before[2]
    partition.remove_before(start)
    found = reader.read(100, 1 << 20)
    with pytest.raises(OutOfRange) as gone:
        reader.read(100, 1 << 20)
    assert gone.value.first == start
    assert reader.position == 2 + len(found) == bases_before[1]
    with pytest.raises(OutOfRange):
        late.read(1, 1)
    reader.seek(gone.value.first)
    assert reader.read(1, 1)[0].position == start


def test_what_was_removed_stays_removed_after_a_reboot(kit: Any) -> None:
    _, partition = filled(kit)
    start = bases(partition)[2]
    partition.remove_before(start)
    kit.reboot()
    partition = kit.partition(limits=SMALL)
    assert (partition.start(), partition.end()) == (start, 40)
    assert kit.values(partition, start)[0] == b"%020d" % start


def test_a_mover_and_retention_do_not_meet(kit: Any) -> None:
    """What waits has no place yet: retention of the partition cannot reach it."""
    topic, partition = filled(kit)
    now_ms = int(time.time() * 1000)
    partition.delays.put([(None, b"", b"later", 0, 0, 1)], [now_ms + 10 * DAY_MS], timestamp_ms=now_ms)
    sweep(topic, Keep(age_s=1.0, bytes=1), None, in_a_day())
    while partition.move(now_ms + 11 * DAY_MS):
        continue
    assert kit.values(partition, partition.start())[-1] == b"later"
