"""Reading forward: limits, seeking, the ends of segments, and what damage looks like to a consumer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqsdk_log.engine import files, index, segment, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptRange, LogError, OutOfRange, UnsupportedVersion
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits


def filled(kit: Any, batches: int = 30, each: int = 7, size: int = 400, segment_bytes: int = 30_000) -> Any:
    """A partition whose record n has the value n, over several segments."""
    partition = kit.partition(limits=Limits(segment_bytes=segment_bytes, min_free_bytes=0))
    for number in range(batches):
        kit.append(partition, *[str(number * each + i).encode().ljust(size) for i in range(each)])
    return partition


def numbers(records: list[Any]) -> list[int]:
    return [int(record.value) for record in records]


@pytest.mark.parametrize(("max_records", "max_bytes"), [(1, 1 << 20), (3, 1 << 20), (1000, 1), (1000, 900), (10_000, 1 << 30), (0, 0)])
def test_limits_hold_and_nothing_is_skipped_or_repeated(kit: Any, max_records: int, max_bytes: int) -> None:
    partition = filled(kit)
    reader = partition.reader(0)
    found: list[int] = []
    while batch := reader.read(max_records, max_bytes):
        assert len(batch) <= max(max_records, 1)
        assert len(batch) == 1 or sum(len(record.value) for record in batch) <= max_bytes
        found += numbers(batch)
        assert reader.position == len(found)
    assert found == list(range(210))


@pytest.mark.parametrize("offset", [0, 1, 6, 7, 8, 69, 70, 100, 208, 209])
def test_a_reader_begins_at_any_offset_also_inside_a_batch(kit: Any, offset: int) -> None:
    partition = filled(kit)
    assert numbers(kit.read_all(partition, offset)) == list(range(offset, 210))


def test_seeking_drops_what_was_read_ahead(kit: Any) -> None:
    reader = filled(kit).reader(0)
    reader.read(1, 1 << 20)
    reader.seek(100)
    assert numbers(reader.read(2, 1 << 20)) == [100, 101]
    reader.seek(0)
    assert numbers(reader.read(2, 1 << 20)) == [0, 1]
    assert reader.position == 2


def test_a_reader_past_the_end_waits_for_its_offset(kit: Any) -> None:
    partition = kit.partition()
    reader = partition.reader(2)
    assert reader.read(10, 1000) == []
    kit.append(partition, b"0")
    assert reader.read(10, 1000) == []
    kit.append(partition, b"1", b"2")
    assert numbers(reader.read(10, 1000)) == [2]
    assert reader.read(10, 1000) == []


def test_trap_a_chunk_that_decodes_to_nothing_is_not_the_end(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A seek lands before its offset; when a whole chunk lay before it, an empty answer was taken for the end.
    partition = filled(kit, batches=100, each=3, segment_bytes=1 << 20)
    assert kit.segments()[0].stat().st_size > 100_000
    monkeypatch.setattr(index, "find", lambda *_: 64)
    assert numbers(partition.reader(290).read(3, 1 << 20)) == [290, 291, 292]


def test_a_chunk_of_markers_only_is_not_the_end(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"0")
    reader = partition.reader(0)
    reader.read(1, 1)
    files.pwrite(partition._fd, _control_batch(partition, 1), files.size_of(partition._fd))
    kit.append(partition, b"2")  # recovery keeps the control batch
    assert numbers(reader.read(10, 1000)) == [2]


def _control_batch(partition: Any, base: int) -> bytes:
    """One whole batch of markers, which no consumer sees."""
    body = fmt.encode_body([(None, b"", b"marker", 0, 0, 1)])
    tail = fmt.HEADER_TAIL.pack(len(body.data), 1, base, 0, 0, fmt.crc32(body.data), fmt.CONTROL, 20, 0, 0, 0)
    return fmt.HEADER_HEAD.pack(fmt.BATCH_MAGIC_WORD, fmt.crc32(tail, partition._salt)) + tail + body.data


def test_a_batch_larger_than_a_chunk_is_read_exactly(kit: Any) -> None:
    partition = kit.partition()
    values = [bytes([number]) * 250_000 for number in range(3)]
    kit.append(partition, b"before")
    kit.append(partition, *values)
    kit.append(partition, b"after")
    assert kit.values(partition) == [b"before", *values, b"after"]


def test_a_reader_takes_no_lock(kit: Any) -> None:
    partition = filled(kit)
    with partition._mutex:
        partition._settle()
        files.flock(partition._lock_fd, files.LOCK_EX)
        assert numbers(kit.read_all(partition)) == list(range(210))
        files.flock(partition._lock_fd, files.LOCK_UN)


def test_offsets_that_are_no_longer_held_are_out_of_range(kit: Any) -> None:
    partition = filled(kit)
    bases = [int(path.stem) for path in kit.segments()]
    partition._words[state.LOG_START] = bases[2]  # retention publishes the start first, then removes
    for base in bases[:2]:
        files.unlink(segment.file_name(base), partition._directory)
    reader = partition.reader(3)
    with pytest.raises(OutOfRange) as caught:
        reader.read(10, 1000)
    assert caught.value.first == partition.start() == bases[2]
    reader.seek(caught.value.first)
    assert numbers(reader.read(1, 1)) == [bases[2]]


def test_a_reader_parked_on_a_removed_segment_finishes_it(kit: Any) -> None:
    partition = filled(kit)
    reader = partition.reader(0)
    reader.read(1, 1)
    first = int(kit.segments()[1].stem)
    files.unlink(segment.file_name(0), partition._directory)
    found = 1
    while reader.position < first:
        found += len(reader.read(1, 1))
    assert found == first
    assert numbers(reader.read(1, 1)) == [first]


def test_a_checksum_failure_that_goes_away_is_no_damage(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another CPU's store may still be on its way when the tail is already seen.
    partition = kit.partition()
    kit.append(partition, b"one")
    reader = partition.reader(0)
    real, calls = files.pread, []

    def stale(fd: int, size: int, position: int) -> bytes:
        data = real(fd, size, position)
        if size == 64 or position == 0:
            return data
        calls.append(position)
        return data[:-1] + b"?" if len(calls) <= 2 else data

    assert reader.read(1, 0)
    kit.append(partition, b"two")
    monkeypatch.setattr(files, "pread", stale)
    assert [record.value for record in reader.read(10, 1000)] == [b"two"]
    assert len(calls) == 3


def test_records_before_damage_are_delivered_first(kit: Any) -> None:
    partition = kit.partition()
    for number in range(4):
        kit.append(partition, b"%d" % number)
    data = bytearray(kit.segments()[0].read_bytes())
    data[-1] ^= 1
    kit.segments()[0].write_bytes(data)
    reader = partition.reader(0)
    assert numbers(reader.read(10, 1000)) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(CorruptRange) as caught:
            reader.read(10, 1000)
        assert (caught.value.start, caught.value.stop) == (3, 4)
    reader.seek(4)
    assert reader.read(10, 1000) == []
    kit.append(partition, b"4")
    assert numbers(reader.read(10, 1000)) == [4]


def test_a_batch_of_a_later_version_is_unsupported_not_corrupt(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    body = fmt.encode_body([(None, b"", b"two", 0, 0, 1)])
    tail = fmt.HEADER_TAIL.pack(len(body.data), 1, 1, 0, 0, fmt.crc32(body.data), 1 << 5, 20, 0, 0, 0)
    batch = fmt.HEADER_HEAD.pack(fmt.BATCH_MAGIC_WORD, fmt.crc32(tail, partition._salt)) + tail + body.data
    files.pwrite(partition._fd, batch, files.size_of(partition._fd))
    kit.append(partition, b"three")
    reader = partition.reader(1)
    with pytest.raises(UnsupportedVersion):
        reader.read(10, 1000)


def test_another_class_of_records_gets_the_same_attributes(kit: Any) -> None:
    class Mine:
        __slots__ = ("attempt", "block", "key", "position", "producer_id", "sequence", "timestamp_ms", "value")

    partition = kit.partition()
    partition.append([(b"k", b"", b"v", 1, 0, 4)], timestamp_ms=10, producer_id=3, producer_seq=8)
    (found,) = partition.reader(0, Mine).read(10, 1000)
    assert type(found) is Mine
    assert {name: getattr(found, name) for name in Mine.__slots__} == {
        "attempt": 4, "block": b"", "key": b"k", "position": 0, "producer_id": 3, "sequence": 8, "timestamp_ms": 11, "value": b"v",
    }  # fmt: skip


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=60)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_segment_hit_anywhere_ends_with_all_good_records_or_named_errors(
    tmp_path_factory: pytest.TempPathFactory, seed: int, hits: list[tuple[int, bytes]]
) -> None:
    with Log.open(tmp_path_factory.mktemp("log") / "log", durability="none", limits=Limits(min_free_bytes=0)) as log:
        partition = log.create_topic("orders", 1).partition(0)
        chance = random.Random(seed)
        values = [chance.randbytes(chance.randint(0, 300)) for _ in range(20)]
        for value in values:
            partition.append([(None, b"", value, 0, 0, 1)], timestamp_ms=1)
        partition._settle()
        for position, data in hits:
            size = files.size_of(partition._fd)
            files.pwrite(partition._fd, data[: max(size - position, 0)], min(position, size))
        reader = partition.reader(0)
        for _ in range(200):  # no hang: every turn makes progress
            try:
                batch = reader.read(3, 1000)
            except CorruptRange as error:
                progress = reader.position <= error.start < error.stop <= 20
                reader.seek(error.stop if progress else -1)
                continue
            except LogError:
                return
            if not batch:
                assert reader.position == 20
                return
            assert all(record.value == values[record.position] for record in batch)
        pytest.fail("the reader does not come to an end")
