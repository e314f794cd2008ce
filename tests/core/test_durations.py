"""The histogram of calls: counted per job, one call of a batch, nothing for what never ran."""

from __future__ import annotations

from mqsdk.core import actions as act
from mqsdk.core.durations import BOUNDS_S
from tests.core.driving import Driver, failure, record


def counted(driver: Driver) -> dict[float, int]:
    bounds = [*BOUNDS_S, float("inf")]
    return {bound: count for bound, count in zip(bounds, driver.machine.view().durations, strict=True) if count}


def test_the_calls_of_a_job_count_with_their_mean() -> None:
    driver = Driver()
    (job,) = driver.deliver(record(0), record(1), record(2), record(3))
    driver.feed(act.Finished(job, [(record(1), failure())], [record(3)], 0.6))
    assert counted(driver) == {0.5: 3}  # one of the four never ran
    assert abs(driver.machine.view().duration_sum_s - 0.6) < 1e-9


def test_a_bound_belongs_to_what_is_below_it_and_the_longest_have_none() -> None:
    driver = Driver()
    for position, seconds in enumerate((0.025, 0.026, 301.0)):
        (job,) = driver.deliver(record(position))
        driver.feed(act.Finished(job, (), (), seconds))
    assert counted(driver) == {0.025: 1, 0.1: 1, float("inf"): 1}


def test_a_batch_is_one_call() -> None:
    driver = Driver(batch=10)
    (job,) = driver.deliver(record(0), record(1), record(2))
    driver.feed(act.Finished(job, (), (), 0.06))
    assert counted(driver) == {0.1: 1}


def test_what_was_taken_back_is_not_counted() -> None:
    driver = Driver()
    (job,) = driver.deliver(record(0), record(1), record(2))
    driver.feed(act.Returned(job, [record(1), record(2)]))
    for one in driver.jobs():
        driver.finish(one)
    driver.feed(act.Finished(job, (), (), 7.0))
    assert counted(driver)[10.0] == 1
