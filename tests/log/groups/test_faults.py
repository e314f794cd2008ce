"""What must not spread in a group: one partition that cannot be used, a look that fails, beside what goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files, members
from mqsdk_log.engine.cursors import CursorFile
from mqsdk_log.engine.leases import Leases
from mqsdk_log.engine.members import Membership
from mqsdk_log.engine.rolelock import RoleLock

from mqsdk.spi import Lost, Partition, Rejected, Renewed, Revoking, StateError, Unavailable

P0 = Partition("orders", 0)


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.EMFILE, "injected")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class BadSectors:
    """Reads of segments of one partition fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
        self.part = part
        self._real = files.pread
        monkeypatch.setattr(files, "pread", self)

    def __call__(self, fd: int, size: int, position: int) -> bytes:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if self.part and self.part in name and name.endswith(".log"):
            raise OSError(errno.EIO, "injected")
        return self._real(fd, size, position)


def restarted(reading: Any) -> bool:
    return bool(reading.of(Lost) or reading.of(Revoking))


# --- one partition that cannot be used ------------------------------------------------------------------------------------------


def test_a_partition_that_cannot_be_read_stops_no_other_is_told_once_and_tried_again(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(2)
    values = stage.publish(backend, 10, 2)
    sectors = BadSectors(monkeypatch, "/topics/orders/0/")
    reading = stage.join(backend)
    reading.until(lambda: reading.values == values[1::2] and backend._reports)
    more = stage.publish(backend, 2, 2)
    reading.until(lambda: more[1] in reading.values)
    assert backend._reports == ["orders/0 cannot be read (Input/output error); tried again until it succeeds"]
    assert not restarted(reading)
    sectors.part = ""
    reading.until(lambda: sorted(reading.values) == sorted(values + more))


def test_a_partition_that_cannot_be_recovered_is_set_aside_and_taken_later(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(2)
    values = stage.publish(backend, 10, 2)
    reading = stage.join(backend)
    log = backend._log.topic("orders").partition(0)
    broken = True
    real = type(log).end

    def end(self: Any) -> int:
        if broken and self.number == 0:
            raise OSError(errno.EIO, "injected")
        return int(real(self))

    monkeypatch.setattr(type(log), "end", end)
    reading.until(lambda: reading.values == values[1::2])
    assert list(reading.owned) == [1]
    assert backend._reports == ["orders/0 cannot be read (Input/output error); tried again until it succeeds"]
    broken = False
    reading.until(lambda: sorted(reading.values) == sorted(values))
    assert sorted(reading.owned) == [0, 1]


def test_damaged_progress_of_one_partition_stops_no_other(stage: Any) -> None:
    backend = stage.topic_of(2)
    values = stage.publish(backend, 10, 2)
    backend.admin().ensure_group("orders", "billing")
    path = stage.root / "groups" / "billing" / "cursors" / "orders"
    whole = path.read_bytes()
    with path.open("r+b") as file:
        for at in (4096, 4096 * 3):
            file.seek(at)
            file.write(b"\xff" * 64)
    before = descriptors()
    reading = stage.join(backend)
    reading.until(lambda: reading.values == values[1::2] and backend._reports)
    assert list(reading.owned) == [1]
    assert "orders/0 cannot be taken" in backend._reports[0]
    assert reading.settle(1, 5) == "stored"
    with path.open("r+b") as file:  # restored from a copy
        for at in (4096, 4096 * 3):
            file.seek(at)
            file.write(whole[at : at + 64])
    reading.until(lambda: sorted(reading.values) == sorted(values))
    assert len(backend._reports) == 1
    reading.consumer.close(time.monotonic() + stage.limit_s)
    assert len(descriptors() - before) <= 8  # those of the two partitions, which stay open


def test_progress_that_is_damaged_later_costs_its_partition_only(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(2)
    reading = stage.join(backend, lease_s=0.5)
    reading.until(lambda: len(reading.owned) == 2)
    real, broken = CursorFile.store, True

    def store(self: Any, partition: int, cursor: Any) -> Any:
        if broken and partition == 0:
            raise OSError(errno.EIO, "injected")
        return real(self, partition, cursor)

    monkeypatch.setattr(CursorFile, "store", store)
    reading.until(lambda: bool(reading.of(Lost)))
    assert [event.partition for event in reading.of(Lost)] == [P0]
    broken = False
    reading.until(lambda: len(reading.owned) == 2)
    assert reading.owned[0].epoch > reading.owned[1].epoch


def test_closing_hands_the_others_back_in_order_when_one_cannot_be_stored(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(2)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.owned) == 2)
    real = CursorFile.store
    with monkeypatch.context() as patch:
        patch.setattr(CursorFile, "store", lambda self, number, cursor: full() if number == 0 else real(self, number, cursor))
        reading.consumer.close(time.monotonic() + stage.limit_s)
    second = stage.join()
    second.until(lambda: len(second.owned) == 2)
    assert [second.owned[number].clean for number in (0, 1)] == [False, True]


# --- a look that fails ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["listdir", "open"])
def test_want_of_descriptors_ends_no_healthy_consumer(stage: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    backend = stage.topic_of(2)
    reading, second = stage.join(backend, lease_s=0.8), stage.join(backend, lease_s=0.8)

    def shared() -> bool:
        reading.answer_revokes()
        return len(reading.owned) == len(second.owned) == 1

    reading.until(shared, (second,))
    handed_back = len(reading.of(Revoking))
    real: Callable[..., Any] = getattr(os, what)

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        return full() if "groups" in str(path) else real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, what, refuse)
        seen = len(reading.of(Renewed))
        reading.until(lambda: len(reading.of(Renewed)) >= seen + 8, (second,))  # two leases long
        assert len(reading.owned) == len(second.owned) == 1
    assert len(reading.of(Revoking)) == handed_back
    assert not reading.of(Lost)
    assert not restarted(second)
    assert backend._reports == ["group billing cannot be looked at (Too many open files); tried again until it succeeds"] * 2
    second.consumer.close(time.monotonic() + stage.limit_s)
    reading.until(lambda: len(reading.owned) == 2)  # it looks again


def test_a_member_that_was_given_up_and_cannot_join_anew_yet_keeps_what_it_owns(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(1)
    reading = stage.join(backend, lease_s=0.8)
    reading.until(lambda: len(reading.owned) == 1)
    directory = stage.root / "groups" / "billing" / "members"
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkfifo", full)
        members.remove(directory, reading.consumer._seat._id)
        reading.until(lambda: any("cannot be joined again" in report for report in backend._reports))
        seen = len(reading.of(Renewed))
        reading.until(lambda: len(reading.of(Renewed)) >= seen + 2)
    reading.until(lambda: len(members.ids(directory)) == 1)
    assert not reading.of(Lost)


def test_a_description_that_cannot_be_opened_is_no_member_without_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Membership(tmp_path, ["orders"], 1.0)
    monkeypatch.setattr(files, "read_path", full)
    with pytest.raises(OSError, match="injected"):
        members.describe(tmp_path, member.id)
    member.leave()


# --- nothing is left behind -----------------------------------------------------------------------------------------------------


def test_a_lease_that_cannot_be_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(tmp_path, "orders", 1.0)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="injected"):
            leases.try_hold(0)
    assert descriptors() <= before  # less: the collector may close what an earlier test left
    lease = leases.try_hold(0)
    assert lease is not None
    lease.close()


@pytest.mark.parametrize("call", ["mkfifo", "pwrite", "rename"])
def test_a_member_that_could_not_join_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = descriptors()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="injected"):
        Membership(tmp_path, ["orders"], 1.0)
    assert list(tmp_path.iterdir()) == []
    assert descriptors() <= before  # less: the collector may close what an earlier test left


def test_a_group_lock_that_cannot_be_counted_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, before = RoleLock(tmp_path / "lock", 1.0), descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="injected"):
            lock.try_acquire(time.monotonic())
    assert descriptors() <= before  # less: the collector may close what an earlier test left
    assert lock.try_acquire(time.monotonic())
    lock.release()


def test_a_consumer_that_cannot_be_made_leaves_no_descriptor_and_no_member(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stage.topic_of(1)
    stage.join(backend).consumer.close(time.monotonic() + stage.limit_s)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", full)
        with pytest.raises(Unavailable) as caught:
            stage.join(backend)
    assert caught.tb is not None  # kept, with its frames: what they hold is not collected
    assert descriptors() <= before  # less: the collector may close what an earlier test left
    assert list((stage.root / "groups" / "billing" / "members").iterdir()) == []


# --- the set of topics is locked ------------------------------------------------------------------------------------------------


def locked_root(stage: Any) -> int:
    fd = os.open(stage.root / "MQSDK", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_publish_and_an_arrangement_end_in_time_beside_a_process_that_holds_the_set_of_topics(stage: Any) -> None:
    backend, other = stage.topic_of(1), stage.backend()
    fd = locked_root(stage)
    began = time.monotonic()
    other.producer(stage.answers).publish([stage.record(P0, b"one")], began + 0.2)
    assert time.monotonic() - began < 2
    outcome = stage.answers.events[-1].outcome
    assert isinstance(outcome, Rejected)
    assert outcome.retryable
    with pytest.raises(Unavailable) as caught:
        backend.admin().ensure_topic("fresh", 1)
    assert caught.value.retryable
    assert time.monotonic() - began < 9  # three times what is promised, 2 s and 0.2 s
    os.close(fd)
    assert backend.admin().ensure_topic("fresh", 1) == 1


def test_a_consumer_beside_a_locked_set_of_topics_keeps_its_leases_and_takes_the_topic_up_later(stage: Any) -> None:
    backend, other = stage.topic_of(1), stage.backend()
    reading = stage.join(other, topics=("orders", "orders.billing.retry"), lease_s=1.0)
    reading.until(lambda: len(reading.owned) == 1)
    backend.admin().ensure_topic("orders.billing.retry", 1)
    backend.admin().ensure_group("orders.billing.retry", "billing")
    fd = locked_root(stage)
    seen = len(reading.of(Renewed))
    reading.until(lambda: len(reading.of(Renewed)) >= seen + 6)
    assert max(b.valid_until - a.valid_until for a, b in zip(reading.of(Renewed), reading.of(Renewed)[1:], strict=False)) < 0.9
    assert not restarted(reading)
    os.close(fd)
    values = stage.publish(backend, 1, topic="orders.billing.retry")
    reading.until(lambda: reading.values == values)


# --- want of threads, a disk that fails -----------------------------------------------------------------------------------------


def test_progress_is_marked_again_when_no_thread_could_be_started(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.topic_of(1)
    backend = stage.backend(durability="always")
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    file = reading.consumer._seat._files["orders"]

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert reading.settle(0, 0) == "stored"
        assert not file.marked
    assert reading.settle(0, 0) == "stored"
    assert file.marked


def test_a_read_only_partition_is_refused_for_good_and_closing_does_not_raise(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.topic_of(1)
    backend = stage.backend(durability="always")
    producer = backend.producer(stage.answers)
    producer.publish([stage.record(P0, b"zero")], time.monotonic() + stage.limit_s)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", full)
        producer.publish([stage.record(P0, b"one")], time.monotonic() + stage.limit_s)
    producer.publish([stage.record(P0, b"two")], time.monotonic() + stage.limit_s)
    outcome = stage.answers.events[-1].outcome
    assert isinstance(outcome, Rejected)
    assert not outcome.retryable
    assert "reboot" in outcome.fix
    assert "space" not in outcome.fix
    backend.close(time.monotonic() + stage.limit_s)
    with pytest.raises(StateError):
        backend.admin()
