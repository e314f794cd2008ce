"""Durability: who syncs what when, and what a failed sync means."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any

import pytest
from mqsdk_log.engine import checkpoint, files, state
from mqsdk_log.engine.errors import SyncFailed, WriteFailed
from mqsdk_log.engine.shared import Limits


class Disk:
    """Stands before fdatasync: counts, blocks or fails it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = files.sync_data
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.gate.set()
        self.failing = False
        self.failing_inode = -1
        monkeypatch.setattr(files, "sync_data", self)

    def __call__(self, fd: int) -> None:
        self.entered.release()
        assert self.gate.wait(20)
        self.calls.append(os.fstat(fd).st_ino)
        if self.failing or self.calls[-1] == self.failing_inode:
            raise OSError(errno.EIO, "injected")
        self.real(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_always_answers_after_a_sync_that_covers_the_batch(kit: Any, disk: Disk) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    calls = len(disk.calls)
    kit.append(partition, b"two")
    assert len(disk.calls) == calls + 1
    assert partition._words[state.SYNCED] == partition._words[state.VISIBLE] == 2


def test_with_always_nothing_is_seen_before_it_is_durable(kit: Any, disk: Disk) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    disk.gate.clear()
    disk.entered = threading.Semaphore(0)
    thread = threading.Thread(target=kit.append, args=(partition, b"two"))
    thread.start()
    assert disk.entered.acquire(timeout=20)
    assert state.read_tail(partition._words)[1] == 2  # written
    assert partition.end() == 1  # but not to be seen
    assert kit.values(partition) == [b"one"]
    disk.gate.set()
    thread.join(20)
    assert kit.values(partition) == [b"one", b"two"]


@pytest.mark.parametrize("durability", ["none", "interval"])
def test_durable_waits_for_the_medium_in_any_mode(kit: Any, disk: Disk, durability: str) -> None:
    partition = kit.partition(durability)
    kit.append(partition, b"one", durable=True)
    assert partition._words[state.SYNCED] == 1


def test_none_never_syncs_what_is_not_sealed(kit: Any, disk: Disk) -> None:
    partition = kit.partition("none")
    kit.append(partition, b"one")
    calls = len(disk.calls)
    for _ in range(50):
        kit.append(partition, b"v")
    assert len(disk.calls) == calls
    assert kit.opened[0]._syncer._thread is None  # no thread either


def test_interval_syncs_soon_after_and_then_sleeps(kit: Any, disk: Disk) -> None:
    partition = kit.partition("interval")
    kit.append(partition, b"one", b"two")
    kit.until(lambda: partition._words[state.SYNCED] == 2)
    kit.until(lambda: not kit.opened[0]._syncer._marked)
    calls = len(disk.calls)
    kit.append(partition, b"three")
    kit.until(lambda: partition._words[state.SYNCED] == 3)
    assert len(disk.calls) == calls + 1


def test_interval_syncs_at_once_when_much_is_dirty(kit: Any, disk: Disk) -> None:
    log = kit.open("interval", Limits(dirty_bytes=10_000, min_free_bytes=0), interval_s=3600)
    partition = log.create_topic("orders", 1).partition(0)
    kit.append(partition, b"v" * 1000)
    assert partition._words[state.SYNCED] == 0
    for _ in range(12):
        kit.append(partition, b"v" * 1000)
    kit.until(lambda: partition._words[state.SYNCED] > 0)


def test_closing_syncs_what_interval_left_and_notes_it(kit: Any, disk: Disk) -> None:
    log = kit.open("interval", interval_s=3600)
    partition = log.create_topic("orders", 1).partition(0)
    kit.append(partition, b"one")
    log.close()
    fd = files.open_dir(kit.directory())
    assert checkpoint.load(fd) == (1, 0, kit.segments()[0].stat().st_size)
    files.close(fd)


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_a_sealed_segment_is_synced_in_every_mode_and_the_mark_moves(kit: Any, disk: Disk, durability: str) -> None:
    partition = kit.partition(durability, Limits(segment_bytes=1000, min_free_bytes=0))
    for _ in range(10):
        kit.append(partition, b"v" * 200)
    sealed = [path.stat().st_ino for path in kit.segments()[:-1]]
    assert len(sealed) == 3
    kit.until(lambda: set(sealed) <= set(disk.calls))
    kit.until(lambda: (checkpoint.load(partition._directory) or (0,))[0] >= 9)


def test_trap_a_sync_never_uses_the_appenders_descriptor(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A roll closes the appender's descriptor: a sync on it met EBADF, or synced another file.
    used: list[int] = []
    real = files.sync_data

    def note(fd: int) -> None:
        used.append(fd)
        real(fd)

    monkeypatch.setattr(files, "sync_data", note)
    partition = kit.partition("interval", Limits(segment_bytes=2000, min_free_bytes=0))
    own = set()
    kit.append(partition, b"first")
    used.clear()  # recovery's own are closed again
    for _ in range(300):
        kit.append(partition, b"v" * 100)
        own.add(partition._fd)
    partition.sync()
    assert used
    assert partition._fd not in partition._commit._fds.values()
    assert partition._words[state.SYNCED] == 301
    assert not kit.reports


def test_threads_share_syncs_and_each_is_answered_after_its_own(kit: Any, disk: Disk) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"first")
    disk.calls.clear()
    early: list[int] = []

    def run() -> None:
        for _ in range(25):
            base = kit.append(partition, b"v")
            if partition._words[state.SYNCED] <= base:
                early.append(base)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not early
    assert partition.end() == 201
    assert len(disk.calls) <= 200


def test_trap_a_leader_that_finds_all_synced_still_serves_its_followers(kit: Any, disk: Disk) -> None:
    # A promoted leader returned early when another process had synced meanwhile, and its followers waited for ever.
    partition = kit.partition("always")
    kit.append(partition, b"one")
    commit, words = partition._commit, partition._words
    other = kit.open("always").topic("orders").partition(0)
    disk.gate.clear()
    disk.entered = threading.Semaphore(0)
    threads = [threading.Thread(target=kit.append, args=(partition, b"v")) for _ in range(5)]
    threads[0].start()
    assert disk.entered.acquire(timeout=20)  # the first leads and hangs in its sync
    for thread in threads[1:]:
        thread.start()
    kit.until(lambda: len(commit._followers) == 4)
    real = commit._lead

    def lead(me: Any, deadline: float | None) -> None:
        other._commit.sync()  # before the heir runs, another process syncs everything
        real(me, deadline)

    commit._lead = lead
    disk.gate.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert words[state.SYNCED] == 6


def test_a_failed_sync_is_unknown_for_all_who_wait_and_then_nothing_more_is_acknowledged(kit: Any, disk: Disk) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    disk.failing = True
    outcomes: list[str] = []

    def run() -> None:
        try:
            kit.append(partition, b"two")
        except (SyncFailed, WriteFailed) as error:
            outcomes.append(type(error).__name__)

    disk.gate.clear()
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    disk.gate.set()
    for thread in threads:
        thread.join(20)
    assert len(outcomes) == 3
    assert "SyncFailed" in outcomes
    disk.failing = False
    calls = len(disk.calls)
    with pytest.raises(WriteFailed):
        kit.append(partition, b"three")
    with pytest.raises(SyncFailed):
        partition.sync()
    assert len(disk.calls) == calls  # never tried again on that range
    assert kit.values(partition) == [b"one"]
    with pytest.raises(WriteFailed):  # other handles see it too
        kit.append(kit.open("interval").topic("orders").partition(0), b"four")
    kit.close()  # it has been told


def test_a_failed_background_sync_is_reported_and_stops_appends(kit: Any, disk: Disk) -> None:
    partition = kit.partition("interval")
    kit.append(partition, b"one")
    kit.until(lambda: partition._words[state.SYNCED] == 1)
    disk.failing = True
    kit.append(partition, b"two")
    kit.until(lambda: any("fdatasync failed" in report for report in kit.reports))
    with pytest.raises(WriteFailed):
        kit.append(partition, b"three")
    kit.close()  # it has been told


def test_a_sync_that_fails_at_the_close_is_told_by_it_after_all_the_others_were_synced(kit: Any, disk: Disk) -> None:
    log = kit.open("interval", interval_s=3600)
    topic = log.create_topic("orders", 2)
    broken, other = topic.partition(0), topic.partition(1)
    kit.append(broken, b"one")
    kit.append(other, b"two")
    disk.failing_inode = (kit.directory() / "00000000000000000000.log").stat().st_ino
    words = topic._page.slot(1)
    with pytest.raises(SyncFailed, match="reboot"):
        kit.opened.pop().close()
    assert words[state.SYNCED] == 1


def test_deleting_a_topic_that_waits_for_its_sync_does_not_end_the_syncer(kit: Any) -> None:
    log = kit.open("interval", interval_s=0.2)
    kit.append(log.create_topic("short", 1).partition(0), b"one")
    log.delete_topic("short")
    kept = log.create_topic("orders", 1).partition(0)
    kit.until(lambda: not log._syncer._marked)
    kit.append(kept, b"two")
    kit.until(lambda: kept._words[state.SYNCED] == 1)
    assert kit.reports == []


def test_a_sync_lock_held_elsewhere_ends_the_wait_at_the_deadline_as_unknown(kit: Any) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    fd = files.open_create("sync.lock", partition._directory)
    with files.locked(fd), pytest.raises(SyncFailed):
        kit.append(partition, b"two", deadline=time.monotonic() + 0.05)
    files.close(fd)
    assert kit.append(partition, b"three") == 2
    assert kit.values(partition) == [b"one", b"two", b"three"]
