"""Sleeping and waking: event-driven, quick, and never lost for good."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Any

import pytest
from mqsdk_log.engine import state
from mqsdk_log.engine.errors import BadRoot
from mqsdk_log.engine.wake import BOUND_S


def test_a_reader_asleep_in_another_process_wakes_at_once(kit: Any) -> None:
    partition = kit.partition()
    words = kit.opened[0].topic("orders")._page.waiters
    worker = kit.start("sleeper", 20)
    assert worker.stdout.readline() == "ready\n"
    delays = []
    for _ in range(20):
        kit.until(lambda: any(words.tolist()))
        sent = time.monotonic()
        kit.append(partition, b"v")
        delays.append(float(worker.stdout.readline().split()[1]) - sent)
    worker.communicate(timeout=30)
    delays.sort()
    assert delays[10] < BOUND_S / 5, delays  # woken, not found at the next bound; typically 0.1 ms
    assert delays[-1] < 3


def test_no_wake_up_is_lost_over_many_races(kit: Any) -> None:
    partition = kit.partition()
    topic = kit.opened[0].topic("orders")
    rounds, seen = 3000, threading.Semaphore(0)
    slow: list[int] = []

    def sleep() -> None:
        waiter, reader = topic.waiter(), partition.reader(0)
        while reader.position < rounds:
            began = time.monotonic()
            waiter.wait(lambda: partition.end() > reader.position, 10.0, None)
            if time.monotonic() - began > BOUND_S * 0.9:
                slow.append(reader.position)
            for _ in reader.read(100, 1 << 20):
                seen.release()
        waiter.close()

    thread = threading.Thread(target=sleep)
    thread.start()
    for _ in range(rounds):
        kit.append(partition, b"v")
        assert seen.acquire(timeout=20)
    thread.join(20)
    assert not slow, f"{len(slow)} wake-ups came by the bound only"


def test_trap_a_sleeper_is_woken_only_after_the_tail_is_visible(kit: Any) -> None:
    # Waking between write and publication made readers look, sleep again, and miss the message until the next one.
    for durability in ("none", "always"):
        partition = kit.partition(durability)
        topic = kit.opened[-1].topic("orders")
        waiter = topic.waiter()
        seen: list[int] = []
        real = partition._shared.wakers.wake_all
        partition._shared.wakers.wake_all = lambda seen=seen, partition=partition, real=real: (seen.append(partition.end()), real())[1]
        waiter.arm()
        base = kit.append(partition, b"v")
        assert seen == [base + 1]
        waiter.close()


def test_nobody_is_poked_when_nobody_sleeps(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition()
    waiter = kit.opened[0].topic("orders").waiter()
    kit.append(partition, b"v")
    assert partition._shared.wakers.fds() == []
    waiter.arm()
    kit.append(partition, b"v")
    assert len(partition._shared.wakers.fds()) == 1
    assert partition._shared.page.map[512:1024] == state.NOBODY
    waiter.close()


def test_a_wait_ends_when_ready_at_its_timeout_and_by_another_descriptor(kit: Any) -> None:
    kit.partition()
    topic = kit.opened[0].topic("orders")
    waiter = topic.waiter()
    began = time.monotonic()
    waiter.wait(lambda: True, 10, None)
    assert time.monotonic() - began < 3
    began = time.monotonic()
    waiter.wait(lambda: False, 0.05, None)
    assert 0.04 < time.monotonic() - began < 3
    receiver, sender = os.pipe()
    os.write(sender, b"x")
    began = time.monotonic()
    waiter.wait(lambda: False, 10, receiver)
    assert time.monotonic() - began < 3
    os.close(receiver)
    os.close(sender)
    waiter.close()


def test_waking_all_ends_a_wait_without_any_record(kit: Any) -> None:
    kit.partition()
    topic = kit.opened[0].topic("orders")
    woken = threading.Event()

    def sleep() -> None:
        waiter = topic.waiter()
        waiter.wait(lambda: False, 60, None)
        waiter.close()
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    kit.until(lambda: any(topic._page.waiters.tolist()))
    topic.wake_all()
    assert woken.wait(20)
    thread.join(20)


def test_a_dead_consumer_costs_one_try_and_frees_its_word(kit: Any) -> None:
    partition = kit.partition()
    words = kit.opened[0].topic("orders")._page.waiters
    worker = kit.start("sleeper", 1)
    worker.stdout.readline()
    kit.until(lambda: any(words.tolist()))
    worker.kill()
    worker.communicate()
    assert any(words.tolist())
    kit.append(partition, b"v")
    assert not any(words.tolist())
    waiter = kit.opened[0].topic("orders").waiter()
    assert waiter._slot == 0  # its place is free again
    waiter.arm()
    kit.append(partition, b"w")
    assert waiter.fileno() in select.select([waiter.fileno()], [], [], 10)[0]
    waiter.close()


def test_a_consumer_that_dies_while_a_waker_keeps_its_fifo_open_is_noticed(kit: Any) -> None:
    partition = kit.partition()
    topic = kit.opened[0].topic("orders")
    words = topic._page.waiters
    waiter = topic.waiter()
    waiter.arm()
    kit.append(partition, b"v")  # the descriptor of the FIFO is kept
    waiter.close()
    words[0] = 1  # as a killed consumer leaves it
    kit.append(partition, b"v")  # EPIPE, then ENXIO
    assert words[0] == 0
    assert partition._shared.wakers.fds() == []


def test_a_full_fifo_blocks_no_publisher(kit: Any) -> None:
    partition = kit.partition()
    topic = kit.opened[0].topic("orders")
    waiter = topic.waiter()
    os.write(waiter.fileno(), bytes(65536))
    waiter.arm()
    assert kit.append(partition, b"v") == 0
    waiter.close()


def test_the_65th_consumer_of_a_topic_polls(kit: Any) -> None:
    partition = kit.partition()
    topic = kit.opened[0].topic("orders")
    waiters = [topic.waiter() for _ in range(65)]
    assert len({waiter._slot for waiter in waiters[:64]}) == 64
    assert waiters[64].fileno() == -1
    done = threading.Event()

    def sleep() -> None:
        waiters[64].wait(lambda: partition.end() > 0, 60, None)
        done.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    kit.append(partition, b"v")
    assert done.wait(20)
    thread.join(20)
    for waiter in waiters:
        waiter.close()


def test_what_is_in_the_place_of_a_fifo_is_not_written_to(kit: Any) -> None:
    kit.partition()
    topic = kit.opened[0].topic("orders")
    path = kit.path / "topics/orders/wake/0"
    path.write_bytes(b"a file")
    with pytest.raises(BadRoot):
        topic.waiter()
    assert path.read_bytes() == b"a file"
