"""What must not spread: an interrupted thread, a stopped process, want of descriptors or threads, beside a log that goes on."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import damage, files, mutex, state
from mqsdk_log.engine.errors import ClosedHandle, LockTimeout, LogError, ReadOnly, SyncFailed
from mqsdk_log.engine.setbacks import Setbacks
from mqsdk_log.engine.shared import Limits
from mqsdk_log.engine.syncer import Syncer

BOUND_S = 15.0  # what must end at all; a bound of the product is given with each test


class Interrupted(BaseException):
    """What a signal handler raises."""


@contextmanager
def signals(number: signal.Signals) -> Iterator[None]:
    """A handler that raises, wherever the main thread is. Untraced: inside the tracer of coverage it would leave a lock behind."""

    def handler(*_: object) -> None:
        raise Interrupted

    traced, before = sys.gettrace(), signal.signal(number, handler)
    sys.settrace(None)
    try:
        yield
    finally:
        signal.signal(number, before)
        sys.settrace(traced)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock file is locked, as by another process that is stopped: on a descriptor of its own."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT if path.is_file() or not path.exists() else os.O_RDONLY)
    files.flock(fd, files.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def ends(action: Callable[[], object], seconds: float = BOUND_S) -> float:
    """Seconds that the action took; fails when it does not end."""
    began, raised = time.monotonic(), list[BaseException]()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it still hangs"
    if raised:
        raise raised[0]
    return time.monotonic() - began


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.EMFILE, "injected")


# --- an interrupted thread ------------------------------------------------------------------------------------------------------


def test_a_leader_that_is_interrupted_before_it_leads_gives_the_lead_away(kit: Any) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    commit = partition._commit
    real = commit._lead

    def interrupted(*_: object) -> None:
        commit._lead = real
        raise Interrupted

    commit._lead = interrupted
    with pytest.raises(Interrupted):
        kit.append(partition, b"two")
    assert kit.append(partition, b"three", deadline=time.monotonic() + BOUND_S) == 2
    assert partition.end() == 3


def test_a_follower_that_is_interrupted_waits_no_more_and_inherits_no_lead(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    commit, real = partition._commit, files.sync_data
    gate, entered = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        entered.set()
        assert gate.wait(BOUND_S)
        real(fd)

    monkeypatch.setattr(files, "sync_data", slow)
    leader = threading.Thread(target=kit.append, args=(partition, b"two"))
    leader.start()
    assert entered.wait(BOUND_S)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        kit.until(lambda: commit._followers)
        signal.pthread_kill(main, signal.SIGUSR1)

    other = threading.Thread(target=interrupt)
    other.start()
    with signals(signal.SIGUSR1), pytest.raises(Interrupted):
        kit.append(partition, b"three", deadline=time.monotonic() + BOUND_S)
    other.join(BOUND_S)
    gate.set()
    leader.join(BOUND_S)
    assert kit.append(partition, b"four", deadline=time.monotonic() + BOUND_S) == 3
    assert partition.end() == 4


def storm(work: Callable[[], object], interruptions: int) -> None:
    """Do it again and again under signals that raise."""
    left, give_up = interruptions, time.monotonic() + BOUND_S

    def until_interrupted() -> None:  # a frame of its own: the jump of a loop is not inside the block around it (3.13)
        # Again after 1 s: an exception that came in a callback of the collector has gone nowhere.
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + left % 17 * 0.00003, 1.0)
        while time.monotonic() < give_up:
            work()

    with signals(signal.SIGALRM):
        try:
            while left and time.monotonic() < give_up:
                left -= 1
                with suppress(Interrupted):
                    until_interrupted()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_lock_that_is_waited_for_is_never_left_locked_by_an_interruption() -> None:
    lock = threading.Lock()
    storm(lambda: mutex.wait_until_free(lock, time.monotonic() + 1), 500)
    assert not lock.locked()


def test_under_interruptions_a_partition_goes_on(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sync_data", lambda fd: None)  # more chances in between
    partition = kit.partition("always")
    kit.append(partition, b"one")
    stop, failures = threading.Event(), list[Exception]()

    def others() -> None:
        while not stop.is_set():
            try:
                kit.append(partition, b"theirs", deadline=time.monotonic() + BOUND_S)
            except LogError as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=others) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        storm(lambda: kit.append(partition, b"mine", deadline=time.monotonic() + BOUND_S), 300)
        kit.append(partition, b"last", deadline=time.monotonic() + BOUND_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join(BOUND_S)
    assert failures == []


# --- a stopped process ----------------------------------------------------------------------------------------------------------


def test_a_sync_lock_that_is_held_delays_no_other_partition_and_is_told_once(kit: Any) -> None:
    log = kit.open("interval")
    stuck, free = log.create_topic("stuck", 1).partition(0), log.create_topic("free", 1).partition(0)
    kit.append(stuck, b"one")
    kit.until(lambda: stuck._words[state.SYNCED] == 1)
    with held(kit.directory("stuck") / "sync.lock"):
        kit.append(stuck, b"two")
        kit.until(lambda: kit.reports)
        for count in range(1, 4):
            kit.append(free, b"v")
            kit.until(lambda count=count: free._words[state.SYNCED] == count)
        assert stuck._words[state.SYNCED] == 1
        assert len(kit.reports) == 1
        assert "stuck/0" in kit.reports[0]
    kit.until(lambda: stuck._words[state.SYNCED] == 2)  # tried again, without another append


@pytest.mark.parametrize("durability", ["interval", "always"])
def test_closing_ends_at_its_deadline_beside_a_process_that_is_stopped_in_its_sync(kit: Any, durability: str) -> None:
    log = kit.open(durability, interval_s=0.01)
    partition = log.create_topic("orders", 1).partition(0)
    kit.append(partition, b"one")
    before = descriptors()
    with held(kit.directory() / "sync.lock"):
        with suppress(SyncFailed):
            kit.append(partition, b"two", deadline=time.monotonic())
        assert ends(lambda: kit.opened.pop().close(time.monotonic() + 0.3)) < 3
    assert any("not synced at the close" in report for report in kit.reports)
    assert descriptors() < before
    assert kit.values(kit.open(durability).topic("orders").partition(0)) in ([b"one", b"two"], [b"one"])


def test_closing_does_not_wait_for_a_sync_that_does_not_return_and_leaves_it_its_descriptors(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = kit.partition("interval")
    kit.append(partition, b"one")
    kit.until(lambda: partition._words[state.SYNCED] == 1)
    gate, entered, synced, real = threading.Event(), threading.Event(), list[bool](), files.sync_data

    def slow(fd: int) -> None:
        entered.set()
        gate.wait(BOUND_S)
        real(fd)
        synced.append(True)

    monkeypatch.setattr(files, "sync_data", slow)
    thread = kit.opened[0]._syncer._thread
    kit.append(partition, b"two")
    assert entered.wait(BOUND_S)
    assert ends(lambda: kit.opened.pop().close(time.monotonic() + 0.3)) < 3
    gate.set()
    thread.join(BOUND_S)
    assert synced == [True]


def test_closing_does_not_wait_for_a_thread_that_holds_a_partition(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    lock = partition._mutex
    with lock:
        assert ends(lambda: kit.opened.pop().close(time.monotonic() + 0.3)) < 3
    with pytest.raises(ClosedHandle):
        kit.append(partition, b"two")


def test_a_full_segment_that_cannot_be_synced_refuses_the_append_at_its_deadline(kit: Any) -> None:
    partition = kit.partition("always", Limits(segment_bytes=500, min_free_bytes=0))
    kit.append(partition, b"v" * 400)
    with held(kit.directory() / "sync.lock"), pytest.raises(LockTimeout, match="nothing was written"):
        ends(lambda: kit.append(partition, b"w" * 400, deadline=time.monotonic() + 0.2))
    assert kit.append(partition, b"x" * 400) == 1


def test_a_set_of_topics_that_is_locked_ends_the_wait_at_the_deadline(kit: Any) -> None:
    log = kit.open()
    log.create_topic("orders", 1)
    other = kit.open()
    with held(kit.path / "MQSDK"):
        for name, arguments in (("topic", ("orders",)), ("create_topic", ("fresh", 1)), ("delete_topic", ("orders",))):
            with pytest.raises(LockTimeout):
                ends(partial(getattr(other, name), *arguments, time.monotonic() + 0.2))
    with log._mutex, pytest.raises(LockTimeout):  # another thread is at it
        ends(lambda: log.topic("fresh", time.monotonic() + 0.2))
    assert other.topic("orders").partition_count == 1


def test_deleting_a_topic_beside_a_stopped_writer_is_refused_before_anything_is_changed(kit: Any) -> None:
    log = kit.open()
    partition = log.create_topic("orders", 2).partition(0)
    kit.append(partition, b"one")
    with held(kit.directory(number=1) / "lock"), pytest.raises(LockTimeout, match="orders/1"):
        ends(lambda: log.delete_topic("orders", time.monotonic() + 0.2))
    assert kit.append(partition, b"two") == 1
    log.delete_topic("orders")
    assert log.topics() == []


def test_a_look_under_the_lock_of_a_stopped_writer_is_bounded_and_calls_nothing_damage(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    path = kit.segments()[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    reader = partition.reader(0)
    before = descriptors()
    with held(kit.directory() / "lock"), pytest.raises(LockTimeout):
        ends(lambda: reader.read(10, 1000))
    assert len(descriptors()) <= len(before) + 1  # the reader's own
    reader.close()


def test_a_note_of_damage_does_not_wait_for_ever(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_PATIENCE_S", 0.2)
    kit.open().create_topic("orders", 1)
    fd = files.open_dir(kit.path / "topics" / "orders")
    with held(kit.path / "topics" / "orders"), pytest.raises(LockTimeout):
        ends(lambda: damage.record(fd, 0, 1, 2))
    damage.record(fd, 0, 1, 2)
    assert damage.covers(fd, 0, 1, 2)
    files.close(fd)


# --- want of threads and descriptors --------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started_costs_no_publish_and_is_tried_again(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("interval")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert [kit.append(partition, b"v") for _ in range(3)] == [0, 1, 2]
    assert partition._words[state.SYNCED] == 0
    assert len(kit.reports) == 1
    assert "cannot be started" in kit.reports[0]
    kit.append(partition, b"v")
    kit.until(lambda: partition._words[state.SYNCED] == 4)


def test_a_syncer_whose_thread_died_begins_another_one() -> None:
    reports: list[str] = []
    syncer = Syncer(0.001, reports.append)
    syncer._thread = threading.Thread(target=list)
    syncer._thread.start()
    syncer._thread.join(BOUND_S)
    again = threading.Event()
    assert syncer.mark(again.set)
    assert again.wait(BOUND_S)
    syncer.close()
    assert not syncer.mark(again.set)
    assert reports == []


def test_a_background_sync_that_found_no_descriptor_is_tried_again(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("interval")
    real = files.names

    def names(at: int) -> list[str]:
        return full() if threading.current_thread().name == "mqsdk-log-syncer" else real(at)

    with monkeypatch.context() as patch:
        patch.setattr(files, "names", names)
        patch.setattr(files, "open_write", lambda name, at, real=files.open_write: names(at) and real(name, at))
        kit.append(partition, b"one")
        kit.until(lambda: kit.reports)
        assert partition._words[state.SYNCED] == 0
    kit.until(lambda: partition._words[state.SYNCED] == 1)
    assert len(kit.reports) == 1
    assert not partition._words[state.FLAGS] & state.FAILED


def test_a_topic_that_cannot_be_opened_leaves_no_descriptor(kit: Any) -> None:
    log = kit.open()
    path = kit.path / "topics" / "bad"
    path.mkdir()
    (path / "topic.json").write_text("{}")
    before = descriptors()
    for _ in range(3):
        with pytest.raises(LogError):
            log.topic("bad")
    assert descriptors() <= before  # less: the collector may close what an earlier test left


@pytest.mark.parametrize("name", ["lock", "sync.lock"])
def test_a_partition_that_cannot_be_opened_leaves_no_descriptor(kit: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    topic = kit.open().create_topic("orders", 1)
    before, real = descriptors(), files.open_create
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_create", lambda found, at: full() if found == name else real(found, at))
        with pytest.raises(OSError, match="injected"):
            topic.partition(0)
    assert descriptors() <= before  # less: the collector may close what an earlier test left
    assert kit.append(topic.partition(0), b"one") == 0


def test_a_sleeper_that_cannot_be_made_leaves_no_descriptor_and_frees_its_word(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = kit.open().create_topic("orders", 1)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_fifo_reader", full)
        error: OSError | None = None
        try:
            topic.waiter()
        except OSError as found:
            error = found  # kept, with its frames: what they hold is not collected
        assert error is not None
    assert descriptors() <= before  # less: the collector may close what an earlier test left
    waiter = topic.waiter()
    assert waiter._slot == 0
    waiter.close()


# --- a disk that fails ----------------------------------------------------------------------------------------------------------


def test_what_is_read_only_says_what_helps_and_closing_does_not_tell_it_again(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", full)
        with pytest.raises(SyncFailed, match="reboot"):
            kit.append(partition, b"two")
    with pytest.raises(ReadOnly, match="reboot"):
        kit.append(partition, b"three")
    kit.close()
    kit.reboot()
    partition = kit.open("always").topic("orders").partition(0)
    assert kit.append(partition, b"four") == 2  # what the text promises


def test_tries_after_a_failure_come_ever_later_and_the_failure_is_told_once() -> None:
    setbacks = Setbacks()
    assert not setbacks.holds("it", 0.0)
    now, waits = 0.0, []
    for number in range(8):
        assert setbacks.add("it", now) == (number == 0)
        again_at = next(at for at in (now + step / 2 for step in range(200)) if not setbacks.holds("it", at))
        waits.append(again_at - now)
        now = again_at
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert setbacks.add("it", now + 1000)  # it had worked meanwhile, so it is told again
