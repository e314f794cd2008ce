"""Progress is told soon, not too often, and never forgotten."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mqsdk.core import actions as act
from mqsdk.core import sparse
from mqsdk.spi import events as spi
from tests.core.driving import Driver, failure, record


def test_it_settles_at_once_when_nothing_else_is_in_flight() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.finish(job)
    assert driver.settles()[-1] == spi.Progress(job.partition, 1, 1, ((0, 1),), 1, b"", driver.settles()[-1].token)
    driver.settled()
    assert driver.machine.view().last_settled_at == driver.now


def test_a_busy_partition_settles_every_ten_milliseconds() -> None:
    driver = Driver(ordered=True)
    driver.deliver(*[record(position, str(position)) for position in range(40)])
    jobs, moments = driver.jobs(), []
    for position in range(40, 80):
        driver.finish(jobs.pop(0), after=0.001)
        jobs += driver.jobs()
        if driver.of(act.Settle):
            moments.append(driver.now)
            driver.settled()
        jobs += driver.deliver(record(position, str(position)))
    assert all(later - earlier >= 0.01 - 1e-9 for earlier, later in pairwise(moments))
    assert len(moments) == 4


def test_the_next_settle_waits_for_the_answer_but_not_for_ever() -> None:
    driver = Driver()
    driver.finish(driver.deliver(record(0))[0])
    driver.finish(driver.deliver(record(1))[0], after=0.5)
    assert len(driver.settles()) == 1
    driver.feed(after=0.5)
    assert [progress.watermark for progress in driver.settles()] == [1, 2]


def test_a_failed_settle_is_repeated_with_its_ranges_after_a_growing_wait() -> None:
    driver = Driver()
    driver.finish(driver.deliver(record(0))[0])
    for wait in (0.1, 0.2, 0.4):
        driver.settled("failed")
        settles = len(driver.settles())
        driver.feed(after=wait * 0.9)
        assert len(driver.settles()) == settles
        driver.feed(after=wait * 0.11)
        assert driver.settles()[-1].done == ((0, 1),)
    driver.settled()
    driver.finish(driver.deliver(record(1))[0])
    assert driver.settles()[-1].done == ((1, 2),)


def test_a_stale_answer_ends_the_ownership() -> None:
    driver = Driver()
    driver.finish(driver.deliver(record(0))[0])
    driver.settled("stale")
    assert driver.of(act.Fence) == [act.Fence(driver.settles()[-1].partition, 1, cancel=True)]
    assert driver.machine.view().partitions == ()


def test_a_message_in_backoff_holds_the_watermark_and_the_blob_says_what_is_above() -> None:
    driver = Driver(sparse_bytes=1000)
    [job] = driver.deliver(record(0), record(1), record(2))
    driver.finish(job, (job.records[1], failure()))
    progress = driver.settles()[-1]
    assert (progress.watermark, progress.high, progress.done) == (1, 3, ((0, 1), (2, 3)))
    assert sparse.decode(progress.sparse, 1) == sparse.Saved(((2, 3),), {1: 1})


@pytest.mark.parametrize("limit", [0, 10, 30])
def test_a_blob_without_room_never_stalls_the_consumer(limit: int) -> None:
    driver = Driver(sparse_bytes=limit)
    for position in range(0, 200, 2):
        for job in driver.deliver(record(position), record(position + 1)):
            driver.finish(job, (job.records[0], failure()))
        if driver.settles()[-1].token:
            driver.settled()
    assert max(len(progress.sparse) for progress in driver.settles()) <= limit
    assert driver.settles()[-1].high == 200
