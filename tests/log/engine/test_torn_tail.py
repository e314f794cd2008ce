"""What may lie behind the last good batch, and what may happen to its bits: cut when torn, reported when damaged, never believed."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine.errors import CorruptRange
from mqsdk_log.engine.partition import PartitionLog


def crash(kit: Any, segment: Path, data: bytes) -> PartitionLog:
    """The machine goes down with these bytes in the segment; the log is opened again."""
    kit.reboot()
    segment.write_bytes(data)
    return kit.partition()  # type: ignore[no-any-return]


def bounds(kit: Any, *batches: tuple[bytes, ...]) -> tuple[Path, list[int]]:
    """Append the batches; returns the segment and its size after each of them."""
    partition = kit.partition()
    sizes = []
    for batch in batches:
        kit.append(partition, *batch)
        sizes.append(kit.segments()[0].stat().st_size)
    return kit.segments()[0], sizes


def test_a_tail_torn_at_any_byte_is_cut_to_the_last_whole_batch(kit: Any) -> None:
    segment, (_, before, size) = bounds(kit, (b"one", b"two"), (b"three",), (b"last", b"batch"))
    data = segment.read_bytes()
    for cut in range(before, size):
        partition = crash(kit, segment, data[:cut])
        assert kit.values(partition) == [b"one", b"two", b"three"]
        assert partition.end() == 3
        assert segment.stat().st_size == before
        assert kit.append(partition, b"next") == 3
        assert kit.values(partition)[3:] == [b"next"]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 4096])
@pytest.mark.parametrize("kind", ["zero", "random", "stale"])
def test_whatever_stands_behind_the_last_batch_is_cut_and_kept_aside(kit: Any, kind: str, length: int) -> None:
    segment, (_, size) = bounds(kit, (b"one",), (b"two",))
    data = segment.read_bytes()
    other = kit.open().topic("orders").partition(1)
    kit.append(other, *([b"of another segment"] * 60))
    stale = kit.segments(number=1)[0].read_bytes()[64:]  # valid batches, but salted for another segment
    tail = {"zero": bytes(length), "random": random.Random(7).randbytes(length), "stale": (stale * 3)[:length]}[kind]
    partition = crash(kit, segment, data + tail)
    assert kit.values(partition) == [b"one", b"two"]
    kept = list((kit.directory() / "quarantine").iterdir())
    assert [file.read_bytes() for file in kept] == [tail]
    assert kit.append(partition, b"three") == 2
    assert segment.stat().st_size > size


def flips(kit: Any, segment: Path, bits: list[int], expected: list[bytes]) -> None:
    data = segment.read_bytes()
    for bit in bits:
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        partition = crash(kit, segment, bytes(broken))
        assert kit.values(partition) == expected, f"bit {bit}"


def test_every_flipped_bit_in_the_header_of_the_last_batch_is_noticed(kit: Any) -> None:
    segment, (before, _) = bounds(kit, (b"one",), (b"two" * 20, b"three"))
    flips(kit, segment, list(range(before * 8, (before + 64) * 8, 3)) + [(before + 16) * 8 + bit for bit in range(64)], [b"one"])


def test_flipped_bits_in_the_body_of_the_last_batch_are_noticed(kit: Any) -> None:
    segment, (before, size) = bounds(kit, (b"one",), (b"two" * 20, b"three"))
    flips(kit, segment, random.Random(3).sample(range((before + 64) * 8, size * 8), 60), [b"one"])


def damage_middle(kit: Any, durability: str) -> tuple[PartitionLog, list[bytes]]:
    """Three acknowledged and synced batches, the middle one is hit by a flipped bit while the machine is off."""
    partition = kit.partition(durability)
    sizes = []
    for name in (b"a", b"b", b"c"):
        kit.append(partition, name + b"0", name + b"1")
        sizes.append(kit.segments()[0].stat().st_size)
    partition.sync()
    kit.reboot()
    data = bytearray(kit.segments()[0].read_bytes())
    data[sizes[0] + 70] ^= 4
    kit.segments()[0].write_bytes(data)
    return kit.partition(durability), [b"a0", b"a1", b"c0", b"c1"]


def read_around(partition: PartitionLog) -> tuple[list[bytes], list[tuple[int, int]]]:
    reader = partition.reader(0)
    found: list[bytes] = []
    lost: list[tuple[int, int]] = []
    while True:
        try:
            batch = reader.read(100, 1 << 20)
        except CorruptRange as error:
            lost.append((error.start, error.stop))
            reader.seek(error.stop)
            continue
        if not batch:
            reader.close()
            return found, lost
        found += [record.value for record in batch]


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_trap_damage_in_the_middle_is_reported_and_later_batches_survive(kit: Any, durability: str) -> None:
    # Recovery once cut good batches behind a flipped bit. Below the durable mark nothing is ever cut.
    partition, expected = damage_middle(kit, durability)
    size = kit.segments()[0].stat().st_size
    assert read_around(partition) == (expected, [(2, 4)])
    assert kit.append(partition, b"next") == 6
    assert kit.segments()[0].stat().st_size > size


def test_damage_below_the_mark_is_still_damage_when_the_checkpoint_is_lost(kit: Any) -> None:
    partition, expected = damage_middle(kit, "none")
    kit.reboot()
    (kit.directory() / "checkpoint").write_bytes(b"x" * 64)
    partition = kit.partition("none")
    assert read_around(partition) == (expected, [(2, 4)])
    assert (kit.path / "topics/orders/damage.json").read_bytes() == b'{"0": [[2, 4]]}'


def test_damage_in_a_running_process_is_reported_not_cut(kit: Any) -> None:
    partition = kit.partition()
    for name in (b"a", b"b", b"c"):
        kit.append(partition, name)
    segment = kit.segments()[0]
    at = segment.read_bytes().index(b"MQB1", 64 + 64)
    with segment.open("r+b") as file:
        file.seek(at + 66)
        byte = os.pread(file.fileno(), 1, at + 66)
        file.write(bytes([byte[0] ^ 1]))
    assert read_around(partition) == ([b"a", b"c"], [(1, 2)])
    assert kit.append(partition, b"d") == 3


def test_damage_up_to_the_end_of_a_segment_names_the_next_segment(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"a")
    kit.append(partition, b"b")
    partition._roll(2, None)  # the first segment is sealed at two records
    kit.append(partition, b"c")
    first = kit.segments()[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert read_around(partition) == ([b"a", b"c"], [(1, 2)])


def test_a_hole_above_the_mark_is_cut_where_prefixes_are_promised(kit: Any) -> None:
    # `none` and `interval` promise that what remains is a prefix: pages may reach the disk in any order.
    segment, sizes = bounds(kit, (b"a",), (b"b",), (b"c",))
    data = bytearray(segment.read_bytes())
    kit.close()
    checkpoint = kit.directory() / "checkpoint"
    assert checkpoint.exists()  # written when the empty partition was opened: its mark is 0
    data[sizes[0] : sizes[0] + 8] = bytes(8)
    partition = crash(kit, segment, bytes(data))
    assert kit.values(partition) == [b"a"]
    assert kit.append(partition, b"next") == 1


def lagging_mark(kit: Any, durability: str) -> PartitionLog:
    """Three synced batches of which the checkpoint knows one only; the second has lost its header while the machine was off."""
    partition = kit.partition(durability)
    kit.append(partition, b"a")
    partition.sync()
    mark = (kit.directory() / "checkpoint").read_bytes()
    kit.append(partition, b"b")
    kit.append(partition, b"c")
    kit.reboot()
    (kit.directory() / "checkpoint").write_bytes(mark)
    segment = kit.segments()[0]
    data = bytearray(segment.read_bytes())
    at = data.index(b"MQB1", 66)
    data[at : at + 8] = bytes(8)
    segment.write_bytes(data)
    return kit.partition(durability)  # type: ignore[no-any-return]


def test_a_hole_above_the_mark_is_damage_where_everything_acknowledged_was_synced(kit: Any) -> None:
    # With `always` the mark on disk lags the real one by up to a second, so a hole there is lost acknowledged data.
    partition = lagging_mark(kit, "always")
    assert read_around(partition) == ([b"a", b"c"], [(1, 2)])
    assert kit.append(partition, b"next") == 3


@pytest.mark.parametrize("durability", ["none", "interval"])
def test_the_same_hole_is_cut_in_the_weaker_modes(kit: Any, durability: str) -> None:
    partition = lagging_mark(kit, durability)
    assert read_around(partition) == ([b"a"], [])
    assert kit.append(partition, b"next") == 1


@pytest.mark.parametrize("part", ["header", "body"])
@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_the_last_batch_below_the_mark_is_never_cut_nor_its_offset_used_again(kit: Any, durability: str, part: str) -> None:
    partition = kit.partition(durability)
    kit.append(partition, b"a")
    kit.append(partition, b"b", b"c")
    partition.sync()
    kit.reboot()
    segment = kit.segments()[0]
    data = bytearray(segment.read_bytes())
    data[-1 if part == "body" else data.rindex(b"MQB1") + 20] ^= 1
    segment.write_bytes(data)
    partition = kit.partition(durability)
    assert kit.append(partition, b"next") == 3
    assert read_around(partition) == ([b"a", b"next"], [(1, 3)])
    assert segment.read_bytes()[: len(data)] == data


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_for_a_segment_give_records_or_named_errors(kit: Any, seed: int) -> None:
    random_source = random.Random(seed)
    segment, _ = bounds(kit, *[(b"v" * 50,) * 3] * 6)
    data = bytearray(segment.read_bytes())
    for _ in range(random_source.randint(1, 8)):
        start = random_source.randrange(64, len(data))
        piece = random_source.randbytes(random_source.randint(1, 200))
        data[start : start + len(piece)] = piece
    partition = crash(kit, segment, bytes(data))
    found, lost = read_around(partition)
    assert all(value == b"v" * 50 for value in found)
    assert len(found) + sum(stop - start for start, stop in lost) == partition.end()
    assert kit.append(partition, b"next") == partition.end() - 1
