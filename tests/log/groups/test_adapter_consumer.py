"""The consumer of the embedded log: ownership, hand-over, settling, sleeping, closing."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine.cursors import CursorFile

from mqsdk.spi import Assigned, BackendError, Batch, Gap, Lost, Partition, Progress, Renewed, Revoking, Settled, StateError

P0 = Partition("orders", 0)


def test_a_new_group_begins_at_the_oldest_offset(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 5)
    reading = stage.join(backend)
    reading.until(lambda: reading.values == values)
    assert reading.owned[0].epoch == 1
    assert reading.owned[0].clean


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 5), (None, 0)])
def test_a_group_begins_where_it_is_told(stage: Any, start: Any, first: int) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 5)
    backend.admin().ensure_group("orders", "billing", start)
    values += stage.publish(backend, 2)
    reading = stage.join(backend)
    reading.until(lambda: reading.values == values[first:])


def test_a_group_begins_at_a_time(stage: Any) -> None:
    backend = stage.topic_of(1)
    producer = backend.producer(stage.answers)
    for second in range(5):
        producer.publish([stage.record(P0, b"%d" % second, timestamp_ms=1_700_000_000_000 + second * 1000)], time.monotonic() + 5)
    reading = stage.join(backend, start=datetime.fromtimestamp(1_700_000_002.5, UTC))
    reading.until(lambda: len(reading.values) == 2)
    assert reading.values == [b"3", b"4"]


def test_two_groups_do_not_touch_one_another(stage: Any) -> None:
    backend = stage.topic_of(2)
    values = stage.publish(backend, 10, 2)
    one, two = stage.join(backend, group="one"), stage.join(backend, group="two")
    for reading in (one, two):
        reading.until(lambda reading=reading: sorted(reading.values) == sorted(values))
    assert one.settle(0, 5) == "stored"
    assert [entry.watermark for entry in backend.admin().progress("orders", "two")] == [0, 0]


def test_one_group_may_read_several_topics(stage: Any) -> None:
    backend = stage.topic_of(1)
    backend.admin().ensure_topic("orders.billing.retry", 1)
    stage.publish(backend, 1, topic="orders.billing.retry")
    stage.publish(backend, 1)
    reading = stage.join(backend, topics=("orders", "orders.billing.retry"))
    reading.until(lambda: len(reading.values) == 2)
    assert {event.partition.topic for event in reading.of(Assigned)} == {"orders", "orders.billing.retry"}


def test_who_loses_a_partition_of_the_topic_loses_that_of_the_retry_topic_too(stage: Any) -> None:
    backend = stage.topic_of(2)
    backend.admin().ensure_topic("orders.billing.retry", 2)
    reading = stage.join(backend, topics=("orders", "orders.billing.retry"), lease_s=1.0)
    reading.until(lambda: len(reading.of(Assigned)) == 4)
    file = CursorFile(stage.root / "groups" / "billing" / "cursors" / "orders")
    assert file.take(1, lambda left: True) is not None  # as another process does after the lease
    file.close()
    reading.until(lambda: len(reading.of(Lost)) == 2)
    assert {event.partition for event in reading.of(Lost)} == {Partition("orders", 1), Partition("orders.billing.retry", 1)}


def test_what_is_settled_is_not_delivered_to_the_next_owner_and_the_sparse_blob_comes_back(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 6)
    first = stage.join(backend)
    first.until(lambda: len(first.values) == 6)
    assert first.settle(0, 2, sparse=b"\x01\x02") == "stored"
    first.consumer.close(time.monotonic() + 5)
    second = stage.join()
    second.until(lambda: second.values == values[2:])
    assigned = second.owned[0]
    assert (assigned.epoch, assigned.position, assigned.sparse, assigned.clean) == (2, 2, b"\x01\x02", True)


def test_an_owner_that_vanished_was_not_clean(stage: Any) -> None:
    backend = stage.topic_of(1)
    first = stage.join(backend)
    first.until(lambda: 0 in first.owned)
    assert first.settle(0, 0, sparse=b"in flight") == "stored"
    backend.vanish()
    second = stage.join()
    second.until(lambda: 0 in second.owned)
    assert (second.owned[0].clean, second.owned[0].sparse) == (False, b"in flight")


def test_a_joining_member_gets_its_share_after_the_owner_has_settled(stage: Any) -> None:
    """Revoking, the last settle, then Assigned elsewhere: never two owners."""
    backend = stage.topic_of(2)
    stage.publish(backend, 8, 2)
    first = stage.join(backend)
    first.until(lambda: len(first.values) == 8)
    second = stage.join()
    first.until(lambda: bool(first.of(Revoking)), (second,))
    (revoking,) = first.of(Revoking)
    assert revoking.deadline > time.monotonic()
    second.poll(0.1)
    assert not second.owned
    number = revoking.partition.number
    assert first.settle(number, 3, final=True) == "stored"
    second.until(lambda: number in second.owned, (first,))
    assert (second.owned[number].position, second.owned[number].epoch, second.owned[number].clean) == (3, 2, True)
    assert not first.of(Lost)


def test_a_partition_that_is_to_be_handed_back_delivers_nothing_more(stage: Any) -> None:
    backend = stage.topic_of(2)
    first = stage.join(backend)
    first.until(lambda: len(first.owned) == 2)
    second = stage.join()
    first.until(lambda: bool(first.of(Revoking)), (second,))
    stage.publish(backend, 4, 2)
    first.until(lambda: len(first.values) == 2, (second,))
    first.poll(0.05)
    assert len(first.values) == 2


def test_who_does_not_hand_back_in_time_loses_the_partition(stage: Any) -> None:
    backend = stage.topic_of(2)
    first = stage.join(backend, lease_s=0.3)
    first.until(lambda: len(first.owned) == 2)
    second = stage.join(lease_s=0.3)
    second.until(lambda: len(second.owned) == 1, (first,))
    (lost,) = first.of(Lost)
    assert lost.partition == second.owned[next(iter(second.owned))].partition
    assert first.of(Revoking)[0].deadline <= time.monotonic()
    assert second.owned[lost.partition.number].clean is False


def test_a_settle_of_an_old_epoch_is_stale(stage: Any) -> None:
    backend = stage.topic_of(1)
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    assert reading.settle(0, 0, epoch=99) == "stale"
    assert reading.settle(0, 0) == "stored"


def test_a_frozen_owner_loses_its_partitions_and_settles_nothing_more(stage: Any) -> None:
    backend = stage.topic_of(1)
    stage.publish(backend, 3)
    frozen = stage.join(backend, lease_s=0.4)
    frozen.until(lambda: len(frozen.values) == 3)
    heir = stage.join(lease_s=0.4)
    took_s = heir.until(lambda: 0 in heir.owned)
    assert 0.2 < took_s < (0.4 + 2.0) * 3
    assert heir.owned[0].epoch == 2
    assert frozen.settle(0, 3) == "stale"
    assert frozen.of(Lost) == [Lost(P0, 1)]
    assert backend.admin().progress("orders", "billing")[0].watermark == 0
    heir.consumer.close(time.monotonic() + 5)
    frozen.until(lambda: 0 in frozen.owned)  # it joins again by itself
    assert frozen.owned[0].epoch == 3


def test_a_pause_shorter_than_the_lease_costs_nothing(stage: Any) -> None:
    backend = stage.topic_of(1)
    paused = stage.join(backend, lease_s=2.0)
    paused.until(lambda: 0 in paused.owned)
    other = stage.join(lease_s=2.0)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        other.poll(0.1)
    paused.poll(0.0)
    assert not paused.of(Lost)
    assert paused.settle(0, 0) == "stored"
    assert not other.owned


def test_idle_ownership_is_renewed_and_valid_for_less_than_the_lease(stage: Any) -> None:
    reading = stage.join(stage.topic_of(1), lease_s=0.3)
    reading.until(lambda: len(reading.of(Renewed)) >= 4)
    until = [event.valid_until for event in reading.of(Renewed)]
    assert until == sorted(until)
    assert all(later - earlier < 0.3 * 2 for earlier, later in pairwise(until))
    assert until[-1] < time.monotonic() + 0.3


def test_more_members_than_partitions_wait_and_take_over(stage: Any) -> None:
    backend = stage.topic_of(1)
    first = stage.join(backend)
    first.until(lambda: 0 in first.owned)
    standby = stage.join()
    standby.poll(0.05)
    assert not standby.owned
    first.consumer.close(time.monotonic() + 5)
    took_s = standby.until(lambda: 0 in standby.owned)
    assert took_s < 1.0
    assert standby.owned[0].clean


def test_a_death_is_noticed_without_looking_for_it(stage: Any) -> None:
    """By the hang-up of the neighbour's FIFO: the regular look at all members is put off for ever."""
    first_backend = stage.topic_of(2)
    first, second = stage.join(first_backend), stage.join()
    second.until(lambda: len(first.owned) == len(second.owned) == 1, (first,))
    second.consumer._seat._sweep_at = float("inf")
    first_backend.vanish()
    assert second.until(lambda: len(second.owned) == 2) < 1.0


def test_a_newcomer_is_watched_as_soon_as_it_is_known(stage: Any) -> None:
    first, newcomers_backend = stage.join(stage.topic_of(2)), stage.backend()
    first.until(lambda: len(first.owned) == 2)
    first.consumer._seat._sweep_at = float("inf")
    second = stage.join(newcomers_backend)
    first.until(lambda: bool(first.of(Revoking)), (second,))
    first.answer_revokes()
    second.until(lambda: len(second.owned) == 1, (first,))
    newcomers_backend.vanish()
    assert first.until(lambda: len(first.owned) == 2) < 1.0


def test_handing_back_unasked_is_leaving_and_the_others_share_at_once(stage: Any) -> None:
    first = stage.join(stage.topic_of(2))
    first.until(lambda: len(first.owned) == 2)
    second = stage.join()
    first.until(lambda: bool(first.of(Revoking)), (second,))
    first.answer_revokes()
    second.until(lambda: len(second.owned) == 1, (first,))
    (left,) = first.owned
    assert first.settle(left, 0, final=True) == "stored"
    assert second.until(lambda: len(second.owned) == 2, (first,)) < 1.0
    assert not first.owned


def test_credit_bounds_what_is_delivered(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 10)
    reading = stage.join(backend)
    consumer = reading.consumer
    while not [event for event in consumer.poll(100, 1.0) if isinstance(event, Assigned)]:
        continue
    assert batches(consumer) == []  # nothing before the first credit
    consumer.credit(P0, 3, 1 << 20)
    assert batches(consumer) == values[:3]
    assert batches(consumer) == []
    consumer.credit(P0, 100, 1)  # too few bytes for any: one passes, else it could never be delivered
    assert batches(consumer) == values[3:4]
    consumer.credit(P0, 100, 1 << 20)
    assert [value for event in consumer.poll(2, 0.1) if isinstance(event, Batch) for value in [r.value for r in event.records]] == values[
        4:6
    ]
    consumer.credit(P0, 0, 1 << 20)
    assert batches(consumer) == []


def batches(consumer: Any) -> list[bytes]:
    return [record.value for event in consumer.poll(100, 0.05) if isinstance(event, Batch) for record in event.records]


def test_a_publish_wakes_a_sleeping_consumer(stage: Any) -> None:
    backend = stage.topic_of(1)
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    ready = threading.Event()
    sent: list[float] = []

    def publish() -> None:
        ready.wait(stage.limit_s)
        sent.append(time.monotonic())
        stage.publish(backend, 1)

    thread = threading.Thread(target=publish)
    thread.start()
    ready.set()
    while not reading.values:
        reading.poll(5.0)
    assert time.monotonic() - sent[0] < 0.2  # below the bound of 250 ms that covers a lost wake-up
    thread.join()


def test_wake_ends_a_blocked_poll_and_the_next_one(stage: Any) -> None:
    reading = stage.join(stage.topic_of(1))
    reading.until(lambda: 0 in reading.owned)
    reading.poll(0.0)
    reading.consumer.wake()
    began = time.monotonic()
    reading.consumer.poll(10, 30.0)
    assert time.monotonic() - began < 3.0
    assert min(wake_to_end_s(reading) for _ in range(5)) < 0.05  # no timer is behind it: the shortest sleep of a consumer is 250 ms


def wake_to_end_s(reading: Any) -> float:
    """Seconds from a wake of a (most likely) sleeping poll to its end."""
    woken_at: list[float] = []

    def wake() -> None:
        woken_at.append(time.monotonic())
        reading.consumer.wake()

    timer = threading.Timer(0.02, wake)
    timer.start()
    while not woken_at:
        reading.consumer.poll(10, 30.0)
    ended_at = time.monotonic()
    timer.join()
    return ended_at - woken_at[0]


def test_close_ends_a_blocked_poll_and_hands_back(stage: Any) -> None:
    reading = stage.join(stage.topic_of(1))
    reading.until(lambda: 0 in reading.owned)
    found: list[Any] = []
    polling = threading.Thread(target=lambda: found.append(reading.consumer.poll(10, 30.0)))
    polling.start()
    began = time.monotonic()
    reading.consumer.close(began + 5)
    reading.consumer.close(began + 5)
    polling.join(stage.limit_s)
    assert not polling.is_alive()
    assert time.monotonic() - began < 3.0
    with pytest.raises(StateError, match="closed"):
        reading.consumer.poll(1, 0.0)
    reading.consumer.wake()
    heir = stage.join()
    heir.until(lambda: 0 in heir.owned)
    assert heir.owned[0].clean


def test_closing_leaves_no_descriptor_and_no_thread(stage: Any) -> None:
    backend = stage.topic_of(2)
    for _ in range(2):
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        reading = stage.join(backend)
        reading.until(lambda reading=reading: len(reading.owned) == 2)
        reading.consumer.close(time.monotonic() + 5)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_lost_records_are_a_gap_with_the_exact_range(stage: Any) -> None:
    backend = stage.topic_of(1)
    stage.publish(backend, 3)
    (segment,) = (stage.root / "topics" / "orders" / "0").glob("*.log")
    raw = bytearray(segment.read_bytes())
    second = raw.index(b"MQB1", raw.index(b"MQB1") + 4)
    raw[second + 64 + 21] ^= 1
    segment.write_bytes(raw)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == 2)
    assert reading.values == [b"0", b"2"]
    assert reading.of(Gap) == [Gap(P0, 1, 1, 2, "corrupt")]


def test_a_position_above_the_end_begins_at_the_end(stage: Any) -> None:
    """After a power loss the log may have lost what a group had settled."""
    backend = stage.topic_of(1)
    stage.publish(backend, 2)
    backend.admin().ensure_group("orders", "billing")
    file = CursorFile(stage.root / "groups" / "billing" / "cursors" / "orders")
    file.move(0, 500)
    file.close()
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    assert reading.owned[0].position == 2
    values = stage.publish(backend, 1)
    reading.until(lambda: reading.values == values)


def test_what_it_cannot_do_or_find_is_refused(stage: Any) -> None:
    backend = stage.topic_of(1)
    for broadcast in (False, True):
        with pytest.raises(BackendError, match="no topic"):
            stage.join(backend, topics=("missing",), broadcast=broadcast)
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    reading.consumer.settle(Progress(P0, 1, 0, sparse=bytes(4041)))
    assert [event.outcome for event in reading.consumer.poll(0, 1.0) if isinstance(event, Settled)] == ["failed"]
    assert reading.settle(0, 0, sparse=bytes(4040)) == "stored"


def test_an_idle_consumer_costs_next_to_nothing(stage: Any) -> None:
    reading = stage.join(stage.topic_of(8))
    reading.until(lambda: len(reading.owned) == 8)
    cpu, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < 2.0:
        reading.poll(1.0)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    print(f"\nidle consumer of 8 partitions: {share:.2%} of a CPU")
    assert share < 0.005 * 3


def test_a_forked_child_is_told_so_and_the_parent_keeps_its_partitions(stage: Any, tmp_path: Path) -> None:
    backend = stage.topic_of(1)
    reading = stage.join(backend)
    reading.until(lambda: 0 in reading.owned)
    child = os.fork()
    if child == 0:
        refused = 0
        calls: list[Any] = [lambda: reading.consumer.poll(1, 0.0), lambda: reading.settle(0, 0), lambda: backend.admin().topics()]
        for call in calls:
            try:
                call()
            except StateError:
                refused += 1
        reading.consumer.close(time.monotonic() + 1)
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    other = stage.join()
    other.poll(0.2)
    assert not other.owned
    assert reading.settle(0, 0) == "stored"
