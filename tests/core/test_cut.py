"""Messages on the new cluster of a topic wait for what their producers sent to the old one."""

from __future__ import annotations

from typing import Any

from mqsdk.core import actions as act
from mqsdk.core.cut import Cuts
from mqsdk.core.partitioner import partition_of
from mqsdk.events import SpanExceeded
from mqsdk.spi import Lost, Partition, PartitionProgress, Revoking
from tests.core.driving import Driver, record

OLD = 4  # partitions on the old cluster
MANY = act.Tuning(concurrency=8)


def driver(**spec: Any) -> Driver:
    return Driver(ordered=True, behind=(OLD,), **{"tuning": MANY, **spec})


def cuts(made: Driver) -> list[act.Cut]:
    """Asked for since the beginning."""
    return [action for action in made.log if isinstance(action, act.Cut)]


def test_a_producer_waits_for_its_cut_and_is_asked_for_once() -> None:
    made = driver()
    made.deliver(record(0, "k", producer="p"), record(1, "k", producer="p"))
    assert made.started() == []
    made.deliver(record(2, "k", producer="p"))
    (cut,) = cuts(made)
    assert cut.numbers == (partition_of(b"k", OLD),)
    made.feed(act.CutPassed(cut.token))
    assert made.started() == [0, 1, 2]
    made.deliver(record(3, "x", producer="q"), record(4, "k2", producer="p"))
    assert len(cuts(made)) >= 2


def test_a_later_message_of_the_key_waits_behind_it_whoever_sent_it() -> None:
    made = driver()
    made.deliver(record(0, "k", producer="done"))
    made.feed(act.CutPassed(cuts(made)[0].token))
    made.finish(made.jobs()[0])
    made.deliver(record(1, "k", producer="slow"), record(2, "k", producer="done"), record(3, "k", producer="slow"))
    assert made.started() == []
    made.feed(act.CutPassed(cuts(made)[1].token))
    assert made.started() == [1, 2, 3]


def test_another_producer_of_another_key_is_not_held_up() -> None:
    made = driver()
    made.deliver(record(0, "a", producer="fast"))
    made.feed(act.CutPassed(cuts(made)[0].token))
    made.finish(made.jobs()[0])
    assert made.deliver(record(1, "b", producer="slow"), record(2, "a", producer="fast"))[0].records[0].position == 2


def test_a_message_without_key_waits_for_every_partition() -> None:
    made = driver()
    made.deliver(record(0, producer="p"))
    assert cuts(made)[0].numbers == (None,)


def test_foreign_messages_count_as_one_producer() -> None:
    made = driver()
    made.deliver(record(0, "k"), record(1, "k"))
    assert len(cuts(made)) == 1


def test_redriven_messages_do_not_wait() -> None:
    made = driver(retry="orders.billing.retry")
    retry = Partition("orders.billing.retry", 0)
    made.assign(partition=retry)
    assert made.deliver(record(0, "k", producer="p"), partition=retry)


def test_what_waits_counts_to_the_span_and_not_to_what_is_in_flight() -> None:
    made = driver(tuning=act.Tuning(concurrency=8, span_records=3))
    made.deliver(*(record(number, "k", producer="p") for number in range(5)))
    assert made.machine.view().records == 0
    assert made.machine.view().waiting == 5
    assert made.reported(SpanExceeded)


def test_nothing_of_a_lost_partition_starts_and_its_next_owner_asks_nothing_twice() -> None:
    made = driver()
    made.deliver(record(0, "k", producer="p"))
    made.feed(Lost(Partition("orders", 0), 1))
    made.assign(epoch=2)
    made.deliver(record(0, "k", producer="p"), epoch=2)
    (cut,) = cuts(made)  # still asked for
    made.feed(act.CutPassed(cut.token))
    assert made.started() == [0]


def test_what_waits_is_not_settled_when_the_partition_is_handed_back() -> None:
    made = driver()
    made.deliver(record(0, "k", producer="p"))
    made.feed(Revoking(Partition("orders", 0), 1, made.now + 5))
    assert [(one.watermark, one.final) for one in made.settles()] == [(0, True)]


def test_when_nothing_is_older_any_more_nothing_waits() -> None:
    made = driver()
    made.deliver(record(0, "k", producer="p"))
    made.feed(act.CutsOver())
    assert made.started() == [0]
    made.deliver(record(1, "x", producer="q"))
    assert made.started() == [1]
    assert len(cuts(made)) == 1


def test_a_consumer_that_is_behind_nothing_never_asks() -> None:
    made = Driver(ordered=True, tuning=MANY)
    made.deliver(record(0, "k", producer="p"))
    assert made.started() == [0]
    assert cuts(made) == []


# --- how far the old one is -------------------------------------------------------------------------------------------------------


def at(*places: tuple[int, int]) -> list[PartitionProgress]:
    """(watermark, end) of partition 0, 1, ..."""
    return [PartitionProgress(number, mark, end, end - mark) for number, (mark, end) in enumerate(places)]


def test_it_passes_when_the_end_of_then_is_reached_though_the_end_moves_on() -> None:
    asked = Cuts()
    asked.ask(1, (0,))
    assert asked.looked(0, at((3, 5), (0, 9))) == []
    assert asked.looked(0, at((4, 7), (0, 9))) == []
    assert asked.looked(0, at((5, 9), (0, 9))) == [1]
    assert not asked.is_open(0)


def test_one_asked_later_waits_for_the_end_of_its_own_time() -> None:
    asked = Cuts()
    asked.ask(1, (0,))
    asked.looked(0, at((0, 5)))
    asked.ask(2, (0,))
    assert asked.looked(0, at((5, 8))) == [1]
    assert asked.looked(0, at((8, 8))) == [2]


def test_all_partitions_and_all_older_clusters_have_to_pass() -> None:
    asked = Cuts()
    asked.ask(1, (None, 1))
    assert asked.looked(0, at((2, 2), (0, 1))) == []
    assert asked.looked(1, at((0, 9), (1, 1))) == []
    assert asked.is_open(0)
    assert not asked.is_open(1)
    assert asked.looked(0, at((2, 2), (1, 1))) == [1]


def test_a_group_that_is_not_known_there_has_nothing_to_wait_for() -> None:
    asked = Cuts()
    asked.ask(1, (3,))
    assert asked.looked(0, []) == [1]
