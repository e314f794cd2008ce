"""Drain: start nothing, let what runs end, settle, hand back, and end by the deadline."""

from __future__ import annotations

from mqsdk.core import actions as act
from mqsdk.spi import events as spi
from tests.core.driving import P0, Driver, failure, record


def test_an_idle_consumer_is_drained_when_its_last_settle_is_confirmed() -> None:
    driver = Driver()
    driver.feed(act.Drain(driver.now + 30))
    assert driver.settles()[-1].final
    assert driver.of(act.Drained) == []
    driver.settled()
    assert driver.actions == [act.Drained(0)]


def test_without_a_partition_it_is_drained_at_once() -> None:
    driver = Driver(assign=False)
    assert driver.feed(act.Drain(driver.now + 30)) == [act.Drained(0)]
    assert driver.feed(spi.Assigned(P0, 1, 0)) == []
    assert driver.machine.due() is None


def test_nothing_starts_after_a_drain_began() -> None:
    driver = Driver()
    [first, _] = driver.deliver(record(0)) + driver.deliver(record(1))
    driver.deliver(record(2))
    driver.feed(act.Drain(driver.now + 30))
    assert driver.of(act.Fence) == [act.Fence(P0, 1, cancel=False)]
    driver.finish(first, (first.records[0], failure()))
    driver.deliver(record(3))
    driver.feed(after=10)
    assert [action for action in driver.log if isinstance(action, act.Run)][2:] == []


def test_what_ends_in_time_is_settled_and_the_rest_is_not() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0), record(1))
    driver.feed(act.Drain(driver.now + 30))
    assert driver.settles() == []
    driver.finish(job, skipped=[job.records[1]])
    assert (driver.settles()[-1].watermark, driver.settles()[-1].final) == (1, True)
    driver.settled()
    assert driver.of(act.Drained) == [act.Drained(0)]


def test_a_handler_that_still_runs_at_the_deadline_is_cut_short_and_its_partition_not_handed_back() -> None:
    driver = Driver()
    other = spi.Partition("orders", 1)
    driver.assign(partition=other)
    [job] = driver.deliver(record(0))
    [quick] = driver.deliver(record(0), partition=other)
    driver.feed(act.Drain(driver.now + 5))
    driver.finish(quick)
    assert [(progress.partition, progress.final) for progress in driver.settles()] == [(other, True)]
    driver.settled()
    driver.feed(after=5)
    assert driver.actions == [act.Fence(P0, 1, cancel=True), act.Drained(1)]
    driver.finish(job)
    assert driver.actions == []


def test_what_ended_in_a_partition_that_is_cut_short_is_settled() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0), record(1))
    driver.feed(act.Returned(job, [job.records[1]]))
    [slow] = driver.jobs()
    driver.feed(act.Drain(driver.now + 5))
    driver.finish(job)
    driver.feed(after=5)
    assert [(progress.watermark, progress.final) for progress in driver.settles()] == [(1, False)]
    assert driver.of(act.Drained) == [act.Drained(1, unsettled=1)]
    assert [one.position for one in slow.records] == [1]


def test_a_second_drain_shortens_the_first_and_never_lengthens_it() -> None:
    driver = Driver()
    driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 30), act.Drain(driver.now + 60))
    driver.feed(after=29.9)
    assert driver.of(act.Drained) == []
    driver.feed(act.Drain(driver.now + 0.05), after=0.0)
    driver.feed(after=0.05)
    assert driver.of(act.Drained) == [act.Drained(1)]


def test_a_later_drain_does_not_lengthen_an_earlier_one() -> None:
    driver = Driver()
    driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 5))
    driver.feed(act.Drain(driver.now + 60))
    driver.feed(after=5)
    assert driver.of(act.Drained) == [act.Drained(1)]


def test_a_partition_that_is_lost_before_its_last_settle_is_answered_does_not_hold_up_the_drain() -> None:
    """Found by the simulation: the answer never comes."""
    driver = Driver()
    driver.feed(act.Drain(driver.now + 30))
    driver.feed(spi.Lost(P0, 1))
    assert driver.of(act.Drained) == [act.Drained(0)]


def test_a_dead_letter_under_way_is_waited_for() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 30))
    driver.finish(job, (job.records[0], failure("reject")))
    assert driver.settles() == []
    driver.feed(act.CopyDone(driver.copies()[0].token, spi.Stored(0)))
    assert (driver.settles()[-1].watermark, driver.settles()[-1].final) == (1, True)


def test_a_last_settle_that_fails_is_repeated_until_the_deadline() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 5))
    driver.finish(job)
    driver.settled("failed")
    assert driver.of(act.Drained) == []
    driver.feed(after=0.1)
    assert [(progress.done, progress.final) for progress in driver.settles()] == [(((0, 1),), True)] * 2
    driver.feed(after=5)
    assert driver.of(act.Drained) == [act.Drained(0, unsettled=1)]


def test_a_partition_that_comes_during_a_drain_is_handed_back() -> None:
    driver = Driver()
    driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 30), spi.Assigned(spi.Partition("orders", 1), 7, 12))
    assert [(progress.epoch, progress.watermark, progress.final) for progress in driver.settles()] == [(7, 12, True)]


def test_orphans_are_waited_for() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.feed(spi.Lost(P0, 1), act.Drain(driver.now + 30))
    assert driver.of(act.Drained) == []
    driver.finish(job)
    assert driver.actions == [act.Drained(0)]
