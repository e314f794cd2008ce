"""Limits: what the backend may deliver, how far a partition may run ahead, pausing, and the size of jobs and batches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mqsdk.core import actions as act
from mqsdk.core.sizing import JobSize
from mqsdk.events import SpanExceeded, Stalled
from mqsdk.spi import events as spi
from tests.core.driving import ONE_WORKER, P0, POLICY, Driver, failure, record


def credit(driver: Driver, partition: spi.Partition = P0) -> act.Credit:
    """The credit that holds now."""
    told = [action for action in driver.log if isinstance(action, act.Credit) and action.partition == partition]
    return told[-1] if told else act.Credit(partition, 0, 0)


def test_all_of_the_limit_is_given_to_the_only_partition() -> None:
    driver = Driver(tuning=act.Tuning(in_flight_records=50, in_flight_bytes=5000))
    assert credit(driver) == act.Credit(P0, 50, 5000)


def test_partitions_share_the_limit_and_a_busy_one_borrows_from_idle_ones() -> None:
    driver = Driver(tuning=act.Tuning(in_flight_records=100))
    others = [spi.Partition("orders", number) for number in range(1, 4)]
    for other in others:
        driver.assign(partition=other)
    assert [credit(driver, partition).records for partition in (P0, *others)] == [25] * 4
    driver.deliver(record(0))
    assert credit(driver).records > 70
    assert sum(credit(driver, partition).records for partition in (P0, *others)) + 1 <= 100
    driver.deliver(record(0), partition=others[0])
    driver.feed(after=5)
    assert sum(credit(driver, partition).records for partition in (P0, *others)) + 2 <= 100


def test_a_share_that_is_still_in_flight_is_not_given_away_twice() -> None:
    driver = Driver(tuning=act.Tuning(in_flight_records=100))
    other = spi.Partition("orders", 1)
    driver.assign(partition=other)
    driver.finish(driver.deliver(record(0))[0])
    driver.deliver(*[record(position) for position in range(1, credit(driver).records + 1)])
    busy = driver.machine.view().records
    assert busy > 80
    driver.deliver(record(0), partition=other)
    assert driver.of(act.Credit) == [act.Credit(other, 100 - busy - 1, credit(driver, other).bytes)]


def test_what_comes_while_a_retry_runs_is_in_flight_and_does_not_wait_behind_a_failure() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"))
    driver.finish(job, (job.records[0], failure()))
    driver.feed(after=1)
    assert driver.started() == [0]
    driver.deliver(record(1, "a"))
    assert (driver.machine.view().records, driver.machine.view().waiting) == (1, 1)


def test_more_partitions_than_records_take_turns() -> None:
    driver = Driver(tuning=act.Tuning(in_flight_records=2))
    partitions = [P0, *[spi.Partition("orders", number) for number in range(1, 5)]]
    for partition in partitions[1:]:
        driver.assign(partition=partition)
    seen = set()
    for _ in range(5):
        open_now = {partition for partition in partitions if credit(driver, partition).records}
        assert len(open_now) == 2
        seen |= open_now
        driver.feed(after=0.05)
    assert seen == set(partitions)


def test_credit_changes_in_steps_and_comes_back_when_nothing_is_in_flight() -> None:
    driver = Driver(tuning=replace(ONE_WORKER, in_flight_records=100))
    driver.log.clear()
    jobs = driver.deliver(*[record(position) for position in range(100)])
    while jobs:
        driver.finish(jobs.pop())
        jobs += driver.jobs()
    changes = [action for action in driver.log if isinstance(action, act.Credit)]
    assert 1 <= len(changes) <= 3
    assert changes[-1].records == 100
    assert (driver.machine.view().records, driver.machine.view().bytes) == (0, 0)


def test_bytes_bound_what_is_in_flight_too() -> None:
    driver = Driver(tuning=replace(ONE_WORKER, in_flight_bytes=1000))
    [job] = driver.deliver(record(0, size=1500))
    assert driver.machine.view().bytes == 1500
    assert not [action for action in driver.of(act.Credit) if action.records]
    driver.finish(job)
    assert credit(driver).bytes == 1000


def test_pausing_stops_starts_and_deliveries_and_resuming_restores_both() -> None:
    driver = Driver()
    driver.feed(act.Pause(True))
    assert credit(driver).records == 0
    assert driver.deliver(record(0)) == []
    assert driver.machine.view().paused
    driver.feed(act.Pause(False))
    assert driver.started() == [0]
    assert credit(driver).records > 0


def test_a_partition_that_comes_while_paused_works_after_the_resume() -> None:
    driver = Driver()
    driver.feed(act.Retuned(replace(ONE_WORKER, paused=True)))
    driver.feed(spi.Lost(P0, 1), spi.Assigned(P0, 2, 0))
    driver.feed(act.Retuned(ONE_WORKER))
    assert credit(driver).records > 0
    assert driver.deliver(record(0), epoch=2)


def test_what_waits_behind_a_failing_key_does_not_use_up_the_limit() -> None:
    driver = Driver(ordered=True, tuning=replace(ONE_WORKER, in_flight_records=10))
    [job] = driver.deliver(record(0, "a"))
    driver.deliver(*[record(position, "a") for position in range(1, 10)])
    driver.finish(job, (job.records[0], failure()))
    view = driver.machine.view()
    assert (view.records, view.waiting) == (0, 10)
    driver.deliver(record(10, "a"), record(11, "b"))
    assert driver.started() == [11]
    assert driver.machine.view().waiting == 11


@pytest.mark.parametrize(
    ("limits", "count"),
    [({"span_records": 4}, 6), ({"span_bytes": 45}, 6), ({"span_age_s": 0.5}, 2)],
    ids=lambda value: str(value),
)
def test_too_much_behind_a_failing_key_pauses_the_partition_once_and_it_goes_on(limits: dict[str, int], count: int) -> None:
    driver = Driver(ordered=True, tuning=replace(ONE_WORKER, **limits))  # type: ignore[arg-type]
    [job] = driver.deliver(record(0, "a"))
    driver.finish(job, (job.records[0], failure()))
    driver.deliver(*[record(position, "a") for position in range(1, count)])
    driver.feed(after=0.6)
    assert len(driver.reported(SpanExceeded)) == 1
    assert credit(driver).records == 0
    assert driver.machine.view().partitions[0].paused
    driver.feed(after=0.4)
    jobs = driver.jobs()
    while jobs:
        driver.finish(jobs.pop(0))
        jobs += driver.jobs()
    assert driver.machine.view().waiting == 0
    assert credit(driver).records > 0
    assert len(driver.reported(SpanExceeded)) == 1


def test_an_ordered_partition_never_runs_twelve_thousand_positions_ahead() -> None:
    driver = Driver(ordered=True, tuning=replace(ONE_WORKER, in_flight_records=1000))
    [stuck] = driver.deliver(record(0, "stuck"))
    at, allowed = 1, credit(driver).records
    while allowed and at < 20_000:
        count = min(allowed, 500)
        jobs = driver.deliver(*[record(position, "k") for position in range(at, at + count)])
        at, allowed = at + count, allowed - count
        while jobs:
            driver.finish(jobs.pop(0))
            jobs += driver.jobs()
            allowed = next((action.records for action in driver.of(act.Credit)), allowed)
    assert 11_000 < at <= 12_000
    assert len(driver.reported(SpanExceeded)) == 1
    driver.finish(stuck)
    assert credit(driver).records > 0


def test_an_unordered_partition_goes_on_past_a_waiting_retry() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.finish(job, (job.records[0], failure(after_s=1e6)))
    for start in range(1, 20_001, 500):
        for one in driver.deliver(*[record(position) for position in range(start, start + 500)]):
            driver.finish(one)
            while jobs := driver.jobs():
                driver.finish(jobs[0])
    assert driver.reported(SpanExceeded) == []
    assert credit(driver).records > 0


def test_jobs_out_are_bounded_by_twice_the_concurrency_and_partitions_take_turns() -> None:
    driver = Driver(tuning=act.Tuning(concurrency=2, retry=POLICY))
    other = spi.Partition("orders", 1)
    driver.assign(partition=other)
    records = [record(position) for position in range(100)]
    driver.feed(driver.batch(*records), driver.batch(*records, partition=other))
    assert [job.partition for job in driver.jobs()] == [P0, other, P0, other]
    driver.feed(act.Retuned(act.Tuning(concurrency=3)))
    assert len(driver.jobs()) == 2


@pytest.mark.parametrize(
    ("is_async", "cost_s", "ready", "expected"),
    [
        (False, None, 500, (8, 8)),
        (False, None, 8, (8, 1)),
        (False, 0.000002, 500, (128, 128)),
        (False, 0.0001, 500, (10, 10)),
        (False, 0.0001, 16, (10, 2)),
        (False, 0.05, 500, (1, 1)),
        (True, None, 500, (1, 1)),
        (True, 0.000002, 500, (128, 128)),
        (True, 0.0005, 500, (1, 1)),
    ],
)
def test_a_job_holds_about_a_millisecond_of_work(is_async: bool, cost_s: float | None, ready: int, expected: tuple[int, int]) -> None:
    size = JobSize(is_async)
    if cost_s is not None:
        size.observe(1, cost_s)
    assert size.next(ready, 8) == expected


def test_one_interrupted_job_does_not_make_jobs_small() -> None:
    size = JobSize(False)
    for _ in range(5):
        size.observe(128, 0.0003)
    size.observe(128, 0.005)
    assert size.next(500, 8)[0] > 100


def test_a_batch_waits_to_be_full_and_no_longer_than_its_wait() -> None:
    driver = Driver(batch=3, batch_wait_s=0.5)
    assert driver.deliver(record(0)) == []
    driver.feed(after=0.2)
    [job] = driver.deliver(record(1), record(2), record(3))
    assert ([one.position for one in job.records], job.batch) == ([0, 1, 2], True)
    driver.feed(after=0.49)
    assert driver.jobs() == []
    driver.feed(after=0.02)
    assert driver.started() == [3]


def test_a_batch_that_failed_comes_back_in_batches_of_one() -> None:
    driver = Driver(batch=3)
    [job] = driver.deliver(record(0), record(1), record(2))
    driver.finish(job, *[(one, failure()) for one in job.records])
    driver.feed(after=1)
    again = driver.jobs()
    for job in again:
        driver.finish(job)
        again += driver.jobs()
    assert [([one.position for one in job.records], job.attempt, job.batch) for job in again] == [([n], 2, True) for n in range(3)]


def test_a_consumer_that_gets_nothing_done_is_reported_once_and_again_after_progress() -> None:
    driver = Driver(tuning=act.Tuning(concurrency=2, stuck_after_s=60.0))
    first, second = driver.deliver(record(0))[0], driver.deliver(record(1))[0]
    assert driver.machine.due() == driver.now + 60.0
    driver.feed(after=59.0)
    assert driver.reported(Stalled) == []
    driver.feed(after=2.0)
    (event,) = driver.reported(Stalled)
    assert (event.topic, event.group, event.seconds) == ("orders", "billing", 61.0)
    assert driver.machine.view().stalled
    driver.feed(after=100.0)
    assert len(driver.reported(Stalled)) == 1
    driver.finish(first)
    assert not driver.machine.view().stalled
    driver.feed(after=1.0)
    driver.feed(after=61.0)
    assert len(driver.reported(Stalled)) == 2
    driver.finish(second)
    driver.feed(after=1000.0)
    assert len(driver.reported(Stalled)) == 2


def test_a_paused_or_idle_consumer_is_not_stalled() -> None:
    driver = Driver(tuning=act.Tuning(concurrency=1, stuck_after_s=60.0))
    driver.feed(after=100.0)
    driver.feed(act.Pause(True))
    driver.deliver(record(0))
    driver.feed(after=100.0)
    driver.feed(after=100.0)
    assert driver.reported(Stalled) == []
