"""Finding a place by time, without reading the bodies in between."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqsdk_log.engine import files
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.shared import Limits


def expected(times: list[int], wanted: int) -> int:
    return next((offset for offset, time_ms in enumerate(times) if time_ms >= wanted), len(times))


@pytest.mark.parametrize("index_kept", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_record_at_or_after_a_time_is_found_exactly(kit: Any, seed: int, index_kept: bool) -> None:
    chance = random.Random(seed)
    partition = kit.partition(limits=Limits(segment_bytes=300_000, min_free_bytes=0))
    times: list[int] = []
    now = kit.now_ms
    for _ in range(120):
        now += chance.randint(-30, 60)  # clocks of several producers are not in step
        deltas = [chance.randint(-20, 20) for _ in range(chance.randint(1, 5))]
        partition.append([(None, b"", bytes(3000), delta, 0, 1) for delta in deltas], timestamp_ms=now)
        times += [now + delta for delta in deltas]
    assert len(kit.segments()) > 2
    if not index_kept:
        for path in kit.directory().glob("*.idx"):
            path.unlink()
    for wanted in [*times[::7], *[time_ms + 1 for time_ms in times[::11]], 0, -5, min(times), max(times), max(times) + 1]:
        assert partition.locate(wanted) == expected(times, wanted), wanted


def test_an_empty_partition_has_only_its_end(kit: Any) -> None:
    assert kit.partition().locate(0) == 0


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=3), min_size=1, max_size=6), st.integers(-(2**32), 2**32))
@settings(max_examples=40, deadline=None)
def test_any_times_are_found_as_a_plain_search_would(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], wanted: int
) -> None:
    from mqsdk_log.engine.log import Log

    with Log.open(tmp_path_factory.mktemp("log") / "log", durability="none") as log:
        partition = log.create_topic("orders", 1).partition(0)
        for deltas in batches:
            partition.append([(None, b"", b"", delta, 0, 1) for delta in deltas], timestamp_ms=100)
        times = [100 + delta for deltas in batches for delta in deltas]
        assert partition.locate(wanted) == expected(times, wanted)


def test_the_maximum_survives_a_new_boot(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"late", at_ms=5000)
    kit.append(partition, b"early", at_ms=1000)
    kit.reboot()
    partition = kit.partition()
    kit.append(partition, b"earlier", at_ms=500)
    assert [partition.locate(time_ms) for time_ms in (0, 600, 5000, 5001)] == [0, 0, 0, 3]
    salt = partition._salt
    data = kit.segments()[0].read_bytes()
    last = data.rindex(b"MQB1")
    assert fmt.parse_header(data, last, salt)[fmt.MAX_TIMESTAMP] == 5000


def test_only_a_few_headers_are_read_in_a_large_partition(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition()
    for number in range(300):
        partition.append(kit.records(*[bytes(1000)] * 50), timestamp_ms=kit.now_ms + number)
    reads: list[int] = []
    real = files.pread

    def count(fd: int, size: int, position: int) -> bytes:
        reads.append(size)
        return real(fd, size, position)

    monkeypatch.setattr(files, "pread", count)
    assert partition.locate(kit.now_ms + 250) == 250 * 50
    assert sum(reads) < 500_000  # of 15 MB
    assert len(reads) < 25


def test_damage_on_the_way_is_passed(kit: Any) -> None:
    partition = kit.partition()
    for number in range(5):
        kit.append(partition, b"v" * 20, at_ms=1000 + number)
    path = kit.segments()[0]
    data = bytearray(path.read_bytes())
    second = data.index(b"MQB1", 65)
    data[second + 20] ^= 1
    path.write_bytes(data)
    assert partition.locate(1003) == 3
    assert partition.locate(1001) == 2
