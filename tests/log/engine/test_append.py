"""Appending: offsets, sizes, rolling, refusals. Whatever is refused leaves nothing behind."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any

import pytest
from mqsdk_log.engine import files, segment
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import ClosedHandle, DiskFull, LockTimeout, NoSuchTopic, SyncFailed, TooLarge, WriteFailed
from mqsdk_log.engine.shared import Limits


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_offsets_are_dense_and_what_is_appended_is_read(kit: Any, durability: str) -> None:
    partition = kit.partition(durability)
    assert (partition.start(), partition.end()) == (0, 0)
    block = fmt.encode_headers([(b"name", b"value")])
    assert partition.append([(b"k", block, b"v", 3, 0, 2)], timestamp_ms=100, producer_id=5, producer_seq=70) == 0
    assert partition.append([(None, b"", b"w", 0, 0, 1), (b"", b"", b"", 1, 0, 1)], timestamp_ms=200, producer_id=6) == 1
    found = kit.read_all(partition)
    assert [(r.position, r.key, r.block, r.value, r.timestamp_ms, r.attempt, r.producer_id, r.sequence) for r in found] == [
        (0, b"k", block, b"v", 103, 2, 5, 70),
        (1, None, b"", b"w", 200, 1, 6, 0),
        (2, b"", b"", b"", 201, 1, 6, 1),
    ]
    assert partition.end() == 3
    assert partition.size_bytes() == kit.segments()[0].stat().st_size


def test_the_first_batch_on_disk_is_what_format_md_draws(kit: Any) -> None:
    kit.append(kit.partition(), b"hello", producer_id=3, producer_seq=4)
    data = kit.segments()[0].read_bytes()
    header = fmt.decode_segment_header(data)
    assert (header.base_offset, header.partition) == (0, 0)
    body = fmt.encode_body([(None, b"", b"hello", 0, 0, 1)])
    assert data[64:] == fmt.encode_header(body, 0, header.salt, (kit.now_ms, kit.now_ms, 3, 4)) + body.data


def test_a_segment_that_would_grow_too_large_is_rolled(kit: Any) -> None:
    partition = kit.partition(limits=Limits(segment_bytes=1000, min_free_bytes=0))
    values = [bytes([number]) * 200 for number in range(20)]
    for value in values:
        kit.append(partition, value)
    assert [int(path.stem) for path in kit.segments()] == [0, 3, 6, 9, 12, 15, 18]
    assert all(path.stat().st_size <= 1000 for path in kit.segments())
    assert kit.values(partition) == values
    assert kit.values(partition, 10) == values[10:]


def test_a_segment_that_is_too_old_is_rolled(kit: Any) -> None:
    partition = kit.partition(limits=Limits(segment_age_s=60, min_free_bytes=0))
    kit.append(partition, b"one", at_ms=int(time.time() * 1000))
    partition._created_ms -= 61_000  # as if it had been made a minute ago
    partition._check_ms = 0
    kit.append(partition, b"two", at_ms=int(time.time() * 1000))
    kit.append(partition, b"three", at_ms=int(time.time() * 1000))
    assert [int(path.stem) for path in kit.segments()] == [0, 1]
    assert kit.values(partition) == [b"one", b"two", b"three"]


def test_a_message_dated_in_the_future_does_not_roll_segments(kit: Any) -> None:
    partition = kit.partition()
    for _ in range(5):
        kit.append(partition, b"v", at_ms=kit.now_ms * 100)
    assert len(kit.segments()) == 1


def test_an_append_over_1_mib_is_several_batches_seen_together(kit: Any) -> None:
    partition = kit.partition()
    values = [bytes([number]) * 300_000 for number in range(20)]
    assert partition.append(kit.records(*values), timestamp_ms=1, producer_id=9, producer_seq=50) == 0
    found = kit.read_all(partition)
    assert [record.value for record in found] == values
    assert [record.sequence for record in found] == list(range(50, 70))
    fd = os.open(kit.segments()[0], os.O_RDONLY)
    try:
        headers = [fields for _, fields in segment.headers(fd, partition._salt, 64, os.fstat(fd).st_size)]
    finally:
        os.close(fd)
    assert all(fields[fmt.BODY_LENGTH] + 64 <= fmt.WRITE_LIMIT for fields in headers)
    assert [fields[fmt.COUNT] for fields in headers] == [3] * 6 + [2]


def test_an_append_larger_than_a_segment_has_one_of_its_own(kit: Any) -> None:
    partition = kit.partition(limits=Limits(segment_bytes=1 << 20, min_free_bytes=0))
    kit.append(partition, b"small")
    values = [bytes([number]) * (1 << 19) for number in range(6)]
    assert kit.append(partition, *values) == 1
    assert kit.values(partition) == [b"small", *values]
    assert kit.append(partition, b"after") == 7


def test_one_record_of_up_to_8_mib_is_stored_and_a_larger_one_refused(kit: Any) -> None:
    partition = kit.partition()
    largest = bytes(fmt.BATCH_LIMIT - fmt.META_SIZE)
    kit.append(partition, largest)
    with pytest.raises(TooLarge):
        kit.append(partition, largest + b"x")
    assert kit.append(partition, b"after") == 1
    assert [len(value) for value in kit.values(partition)] == [len(largest), 5]


@pytest.mark.parametrize("bad", [[], [(None, b"", b"", 2**31, 0, 1)], [(None, b"", b"", 0, 0, 70000)] * 2])
def test_records_that_do_not_fit_are_refused_before_anything_is_written(kit: Any, bad: Any) -> None:
    partition = kit.partition()
    with pytest.raises(ValueError, match="record"):
        partition.append(bad, timestamp_ms=1)
    assert partition.end() == 0


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, DiskFull), (errno.EFBIG, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, WriteFailed)]
)
@pytest.mark.parametrize("large", [False, True])
def test_a_write_that_fails_is_taken_back(
    kit: Any, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception], large: bool
) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    size = kit.segments()[0].stat().st_size
    real = files.pwritev
    calls = []

    def fail(fd: int, buffers: Any, position: int) -> int:
        calls.append(position)
        if large and len(calls) == 1:
            return real(fd, buffers, position)
        real(fd, [b"half of it"], position)
        raise OSError(code, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(files, "pwritev", fail)
        with pytest.raises(expected):
            kit.append(partition, *[bytes(700_000)] * (3 if large else 1))
    assert kit.segments()[0].stat().st_size == size
    assert kit.append(partition, b"two") == 1
    assert kit.values(partition) == [b"one", b"two"]


def test_a_short_write_is_taken_back(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    real = files.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(files, "pwritev", lambda fd, buffers, position: real(fd, buffers[:2], position))
        with pytest.raises(DiskFull):
            kit.append(partition, b"two")
    assert kit.append(partition, b"three") == 1
    assert kit.values(partition) == [b"one", b"three"]


def test_a_failed_write_that_cannot_be_taken_back_is_unknown_and_repaired_by_the_next(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    real = files.pwritev

    def half(fd: int, buffers: Any, position: int) -> int:
        real(fd, buffers[:2], position)
        raise OSError(errno.EIO, "injected")

    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(files, "pwritev", half)
        patch.setattr(files, "ftruncate", refuse)
        with pytest.raises(SyncFailed):
            kit.append(partition, b"two")
    assert kit.append(partition, b"three") == 1
    assert kit.values(partition) == [b"one", b"three"]


def test_a_full_disk_refuses_appends_and_lets_reading_go_on(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition(limits=Limits(min_free_bytes=1000))
    kit.append(partition, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(files, "free_bytes", lambda fd: 900)
        partition._check_ms = 0
        with pytest.raises(DiskFull):
            kit.append(partition, b"two")
        assert kit.values(partition) == [b"one"]
    assert kit.append(partition, b"three") == 1


def test_a_file_size_limit_refuses_the_append_and_a_smaller_one_still_fits(kit: Any) -> None:
    kit.partition()
    process = kit.start("full", 50_500)
    out, _ = process.communicate(timeout=30)
    (word, stored), (later, base) = (line.split() for line in out.splitlines())
    assert (word, later) == ("full", "later")
    assert int(base) == int(stored) + 1
    assert len(kit.values(kit.partition())) == int(stored) + 2


def test_a_lock_held_by_another_process_ends_the_append_at_its_deadline(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    holder = kit.start("hold")
    assert holder.stdout.readline() == "held\n"
    try:
        for values in ([b"two"], [bytes(1 << 20)] * 2):
            began = time.monotonic()
            with pytest.raises(LockTimeout):
                kit.append(partition, *values, deadline=began + 0.1)
            assert 0.1 <= time.monotonic() - began < 3
        assert kit.values(partition) == [b"one"]  # readers need no lock
    finally:
        holder.communicate("\n", timeout=30)
    assert kit.append(partition, b"two", deadline=time.monotonic() + 10) == 1


def test_a_thread_that_holds_the_partition_ends_the_append_at_its_deadline(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    with partition._mutex:
        began = time.monotonic()
        with pytest.raises(LockTimeout):
            kit.append(partition, b"two", deadline=began + 0.05)
        assert time.monotonic() - began < 3
    assert kit.append(partition, b"two") == 1


def test_threads_append_densely_and_each_in_its_order(kit: Any) -> None:
    partition = kit.partition(limits=Limits(segment_bytes=20_000, min_free_bytes=0))
    other = (
        kit.open(limits=Limits(segment_bytes=20_000, min_free_bytes=0)).topic("orders").partition(0)
    )  # its own descriptors, as another process has

    def run(name: int, target: Any) -> None:
        for number in range(300):
            kit.append(target, b"%d:%d" % (name, number))

    threads = [threading.Thread(target=run, args=(name, (partition, other)[name % 2])) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = kit.read_all(partition)
    assert [record.position for record in found] == list(range(1200))
    for name in range(4):
        mine = [record.value for record in found if record.value.startswith(b"%d:" % name)]
        assert mine == [b"%d:%d" % (name, number) for number in range(300)]


def test_a_deleted_topic_refuses_appends_of_handles_that_knew_it(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    other = kit.open()
    other.delete_topic("orders")
    with pytest.raises(NoSuchTopic):
        kit.append(partition, b"two")
    assert other.topics() == []
    fresh = kit.open().create_topic("orders", 2).partition(0)
    assert kit.append(fresh, b"again") == 0
    assert kit.values(fresh) == [b"again"]


def test_a_closed_log_refuses_everything_by_name(kit: Any) -> None:
    partition = kit.partition()
    topic = kit.opened[0].topic("orders")
    reader, waiter = partition.reader(0), topic.waiter()
    kit.opened[0].close()
    kit.opened[0].close()
    reader.close()
    waiter.close()
    for call in (
        lambda: kit.append(partition, b"v"),
        partition.end,
        partition.start,
        lambda: reader.read(1, 1),
        lambda: topic.partition(1),
        topic.waiter,
        topic.wake_all,
        kit.opened[0].topics,
        lambda: kit.opened[0].topic("orders"),
        lambda: kit.opened[0].create_topic("x"),
        lambda: waiter.wait(lambda: False, 0.1, None),
    ):
        with pytest.raises(ClosedHandle):
            call()


def test_closing_gives_every_descriptor_back(kit: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for durability in ("none", "interval", "always"):
        partition = kit.partition(durability, Limits(segment_bytes=1000, min_free_bytes=0))
        for _ in range(20):
            kit.append(partition, b"v" * 200)
        partition.reader(0).read(10, 1000)
        kit.opened[0].topic("orders").waiter()
        kit.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_on_a_file_system_that_became_read_only_nothing_is_stored_for_certain(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was unknown: what had not been written could not be taken back either."""
    partition = kit.partition("interval")
    kit.append(partition, b"one")

    def refused(*_: object) -> int:
        raise OSError(errno.EROFS, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(files, "pwritev", refused)
        patch.setattr(files, "ftruncate", refused)
        for _ in range(2):
            with pytest.raises(WriteFailed, match="EROFS"):
                kit.append(partition, b"two")
        assert kit.values(partition) == [b"one"]
    assert kit.append(partition, b"three") == 1


def test_a_write_that_was_torn_and_cannot_be_taken_back_stays_unknown(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("interval")
    kit.append(partition, b"one")
    real = files.pwritev

    def torn(fd: int, parts: Any, position: int) -> int:
        real(fd, [bytes(parts[0])], position)
        raise OSError(errno.EIO, "injected")

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(files, "pwritev", torn)
        patch.setattr(files, "ftruncate", refused)
        with pytest.raises(SyncFailed):
            kit.append(partition, b"two")
    assert kit.append(partition, b"three") == 1
