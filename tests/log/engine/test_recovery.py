"""Making the tail true again: after a dead writer, a new boot, a copied directory, a truncated file, a lost state page."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from mqsdk_log.engine import checkpoint, files, segment, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptRange
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.shared import Limits

SMALL = Limits(segment_bytes=600, min_free_bytes=0)


def unpublished(partition: PartitionLog, data: bytes) -> None:
    """Write bytes behind the tail, as a writer that is killed before it publishes does."""
    partition._settle()
    files.pwrite(partition._fd, data, files.size_of(partition._fd))


def whole_batch(partition: PartitionLog, base: int, *values: bytes) -> bytes:
    body = fmt.encode_body([(None, b"", value, 0, 0, 1) for value in values])
    return fmt.encode_header(body, base, partition._salt, (5, 5, 0, 0)) + body.data


def test_a_whole_batch_of_a_writer_that_died_before_publishing_is_kept(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    unpublished(partition, whole_batch(partition, 1, b"two", b"three"))
    assert kit.values(partition) == [b"one"]
    assert kit.append(partition, b"four") == 3
    assert kit.values(partition) == [b"one", b"two", b"three", b"four"]


def test_half_a_batch_of_a_writer_that_died_is_cut_and_kept_aside(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    unpublished(partition, whole_batch(partition, 1, b"two") + whole_batch(partition, 2, b"torn")[:-1])
    assert kit.append(partition, b"three") == 2
    assert kit.values(partition) == [b"one", b"two", b"three"]
    assert len(list((kit.directory() / "quarantine").iterdir())) == 1
    assert any("bytes cut" in report for report in kit.reports)


def test_a_reader_notices_that_a_recovery_took_place(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    reader = partition.reader(0)
    assert [record.value for record in reader.read(10, 1000)] == [b"one"]
    unpublished(partition, b"torn")
    kit.append(partition, b"two")
    assert [record.value for record in reader.read(10, 1000)] == [b"two"]


def test_a_truncated_segment_is_an_incident_and_its_offsets_are_not_used_again(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    size = kit.segments()[0].stat().st_size
    kit.append(partition, b"two")
    kit.append(partition, b"three")
    os.truncate(kit.segments()[0], size + 10)
    assert kit.append(partition, b"four") == 3
    reader = partition.reader(0)
    assert [record.value for record in reader.read(10, 1000)] == [b"one"]
    with pytest.raises(CorruptRange) as caught:
        reader.read(10, 1000)
    assert (caught.value.start, caught.value.stop) == (1, 3)
    reader.seek(3)
    assert [record.value for record in reader.read(10, 1000)] == [b"four"]
    assert any("lost offsets" in report for report in kit.reports)


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_a_new_boot_finds_everything_again_across_segments(kit: Any, durability: str) -> None:
    partition = kit.partition(durability, SMALL)
    values = [f"value-{number}".encode() * 5 for number in range(60)]
    for value in values:
        kit.append(partition, value)
    assert len(kit.segments()) > 5
    kit.reboot()
    partition = kit.partition(durability, SMALL)
    assert (partition.start(), partition.end()) == (0, 60)
    assert kit.values(partition) == values
    assert kit.append(partition, b"next") == 60


def test_reading_alone_recovers_a_log_after_a_new_boot(kit: Any) -> None:
    kit.append(kit.partition(), b"one")
    kit.reboot()
    assert kit.values(kit.partition()) == [b"one"]


def test_a_copied_directory_does_not_believe_the_copied_state_page(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one", b"two")
    copy = kit.path.with_name("copy")
    shutil.copytree(kit.path, copy, ignore=shutil.ignore_patterns("wake"))
    kit.append(partition, b"only in the original")
    with Log.open(copy, durability="none") as log:
        copied = log.topic("orders").partition(0)
        assert kit.values(copied) == [b"one", b"two"]
        assert kit.append(copied, b"only in the copy") == 2
    assert kit.values(partition) == [b"one", b"two", b"only in the original"]


def test_a_copy_whose_state_page_is_newer_than_its_segments_has_lost_nothing(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    copy = kit.path.with_name("copy")
    shutil.copytree(kit.path, copy, ignore=shutil.ignore_patterns("wake", "state"))
    kit.append(partition, b"only in the original")
    shutil.copy(kit.path / "topics/orders/state", copy / "topics/orders/state")
    with Log.open(copy, durability="none") as log:
        copied = log.topic("orders").partition(0)
        assert kit.append(copied, b"two") == 1
        assert kit.values(copied) == [b"one", b"two"]
    assert not (copy / "topics/orders/damage.json").exists()


def test_a_directory_copied_while_live_loses_at_most_its_newest_batches(kit: Any) -> None:
    partition = kit.partition()
    worker = None
    try:
        worker = kit.start("append", "w", "none", 3, 200, 0, 1 << 20)
        assert worker.stdout is not None
        kit.until(worker.stdout.readline)
        kit.until(lambda: partition.end() > 1000)
        copy = kit.path.with_name("copy")
        subprocess.run(["cp", "-r", kit.path, copy], check=True)
    finally:
        if worker is not None:
            worker.kill()
            worker.communicate()
    with Log.open(copy, durability="none") as log:
        found = kit.read_all(log.topic("orders").partition(0))
    assert [record.position for record in found] == list(range(len(found)))
    assert [int(record.value.split(b":")[1]) for record in found] == list(range(len(found)))
    assert len(found) > 1000


def test_recovery_repeated_changes_nothing(kit: Any) -> None:
    kit.append(kit.partition(), b"one")
    kit.reboot()
    with kit.segments()[0].open("ab") as file:
        file.write(b"torn")
    images = []
    for _ in range(3):
        assert kit.values(kit.partition()) == [b"one"]
        kit.reboot()
        images.append([path.read_bytes() for path in sorted(kit.directory().rglob("*")) if path.is_file()])
    assert images[0] == images[1] == images[2]


@pytest.mark.parametrize("function", ["ftruncate", "replace", "rename", "sync_data", "open_new"])
@pytest.mark.parametrize("durability", ["none", "always"])
def test_a_recovery_that_fails_midway_can_be_repeated(kit: Any, monkeypatch: pytest.MonkeyPatch, function: str, durability: str) -> None:
    kit.append(kit.partition(durability, SMALL), b"one")
    kit.reboot()
    with kit.segments()[0].open("ab") as file:
        file.write(b"torn")
    partition = kit.partition(durability, SMALL)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> Any:
            raise OSError(5, "injected")

        patch.setattr(files, function, fail)
        with suppress(OSError):  # not every function is needed by every recovery
            partition.end()
    assert kit.values(partition) == [b"one"]
    assert kit.append(partition, b"two") == 1


def test_a_segment_left_by_a_roll_that_died_does_not_hide_later_records(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    words = partition._words
    words[state.FLAGS] |= state.ROLLING
    segment.create(partition._directory, 1, partition._shared.uuid, 0, durable=False)  # named, but never published
    assert kit.append(partition, b"two") == 1
    assert kit.append(partition, b"three") == 2
    assert len(kit.segments()) == 1
    assert kit.values(partition, 1) == [b"two", b"three"]


def test_a_roll_that_died_before_a_new_boot_is_finished(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    segment.create(partition._directory, 1, partition._shared.uuid, 0, durable=False)
    (kit.directory() / "00000000000000000001.log.abc.tmp").write_bytes(b"half")
    (kit.directory() / "00000000000000000077.idx").write_bytes(b"orphan!!")
    kit.reboot()
    partition = kit.partition()
    assert kit.append(partition, b"two") == 1
    assert kit.values(partition) == [b"one", b"two"]
    assert not list(kit.directory().glob("*.tmp"))
    assert not (kit.directory() / "00000000000000000077.idx").exists()


@pytest.mark.parametrize("length", [0, 30, 64])
def test_a_newest_segment_without_a_valid_header_is_set_aside(kit: Any, length: int) -> None:
    kit.append(kit.partition(), b"one")
    kit.reboot()
    (kit.directory() / f"{1:020d}.log").write_bytes(bytes(length))
    partition = kit.partition()
    assert kit.values(partition) == [b"one"]
    assert kit.append(partition, b"two") == 1
    assert kit.values(partition) == [b"one", b"two"]


def test_an_acknowledged_segment_without_a_valid_header_is_reported(kit: Any) -> None:
    partition = kit.partition("always", SMALL)
    for number in range(30):
        kit.append(partition, b"x" * 50 + bytes([number]))
    kit.reboot()
    middle = kit.segments()[2]
    start, stop = int(middle.stem), int(kit.segments()[3].stem)
    middle.write_bytes(bytes(64) + middle.read_bytes()[64:])
    partition = kit.partition("always", SMALL)
    reader = partition.reader(0)
    found = 0
    while reader.position < start:
        found += len(reader.read(100, 1 << 20))
    with pytest.raises(CorruptRange) as caught:
        reader.read(100, 1 << 20)
    assert (found, caught.value.start, caught.value.stop) == (start, start, stop)
    assert len(kit.values(partition, stop)) == 30 - stop


def test_an_offset_that_a_reader_has_settled_is_never_given_out_again(kit: Any) -> None:
    # After a power loss the log may end below what a group has settled; the floor of its cursors makes offsets jump.
    partition = kit.partition()
    kit.append(partition, b"one")
    kit.reboot()
    log = kit.open()
    log.floor = lambda topic, number: 106 if (topic, number) == ("orders", 0) else 0
    partition = log.topic("orders").partition(0)
    assert partition.end() == 106
    assert kit.append(partition, b"two") == 106
    assert [(record.position, record.value) for record in kit.read_all(partition)] == [(0, b"one"), (106, b"two")]
    assert kit.values(partition, 50) == [b"two"]


def test_the_older_checkpoint_copy_is_overwritten_and_the_newer_valid_one_counts(kit: Any) -> None:
    partition = kit.partition()
    directory = partition._directory
    for offset in (5, 7, 9):
        checkpoint.store(directory, checkpoint.Mark(offset, 0, 100 + offset))
    path = kit.directory() / "checkpoint"
    assert path.stat().st_size == 64
    assert checkpoint.load(directory) == (9, 0, 109)
    data = bytearray(path.read_bytes())
    newest = 0 if int.from_bytes(data[:8], "little") == 9 else 32
    data[newest] ^= 1
    path.write_bytes(data)
    assert checkpoint.load(directory) == (7, 0, 107)
    path.write_bytes(b"")
    assert checkpoint.load(directory) is None


@pytest.mark.parametrize("bit", range(0, 64 * 8, 5))
def test_any_flipped_bit_of_the_checkpoint_loses_nothing(kit: Any, bit: int) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    kit.append(partition, b"two")
    kit.reboot()
    path = kit.directory() / "checkpoint"
    data = bytearray(path.read_bytes().ljust(64, b"\0"))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    assert kit.values(kit.partition("always")) == [b"one", b"two"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 80, bytes(16), b"garbage!" * 3 + b"odd"])
def test_a_lying_or_lost_index_costs_time_only(kit: Any, content: bytes) -> None:
    partition = kit.partition()
    for number in range(40):
        kit.append(partition, *[bytes([number]) * 1000] * 10)
    path = kit.directory() / f"{0:020d}.idx"
    assert path.stat().st_size >= 8 * 4
    path.write_bytes(content)
    assert kit.values(partition, 333)[0] == bytes([33]) * 1000
    assert partition.locate(kit.now_ms) == 0


def test_a_segment_that_lost_its_end_is_damage_not_a_jump(kit: Any) -> None:
    partition = kit.partition("always", SMALL)
    for number in range(30):
        kit.append(partition, b"x" * 50 + bytes([number]))
    stop = int(kit.segments()[3].stem)
    size = kit.segments()[2].stat().st_size
    os.truncate(kit.segments()[2], 64 + (size - 64) // 3)  # on the boundary of its first batch: all checksums hold
    start = int(kit.segments()[2].stem) + 1
    reader = partition.reader(start - 1)
    assert len(reader.read(10, 1000)) == 1
    with pytest.raises(CorruptRange) as caught:
        reader.read(10, 1000)
    assert (caught.value.start, caught.value.stop) == (start, stop)
    reader.seek(stop)
    assert reader.read(1, 1)[0].position == stop


def test_acknowledged_batches_missing_at_the_end_after_a_new_boot_are_damage(kit: Any) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    size = kit.segments()[0].stat().st_size
    kit.append(partition, b"two")
    partition.sync()
    kit.reboot()
    os.truncate(kit.segments()[0], size)
    partition = kit.partition("always")
    assert kit.append(partition, b"three") == 2
    reader = partition.reader(0)
    assert len(reader.read(10, 1000)) == 1
    with pytest.raises(CorruptRange) as caught:
        reader.read(10, 1000)
    assert (caught.value.start, caught.value.stop) == (1, 2)
    assert kit.values(partition, 2) == [b"three"]
