"""The rate and the breaker in a machine: how many messages start when, what counts, and that nothing else starts meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core.actions import BreakerPolicy
from mqsdk.events import BreakerChanged, DeadLettered, Stalled
from mqsdk.spi import events as spi
from tests.core.driving import ONE_WORKER, P0, POLICY, Driver, failure, record

POLICY_OF_TWO = BreakerPolicy(failures=0.5, minimum=2, window_s=30.0, probe_s=10.0)
MANY_WORKERS = act.Tuning(concurrency=50, retry=POLICY)


def limited(rate: float, **fields: Any) -> Driver:
    tuning = replace(MANY_WORKERS, rate_per_s=rate)
    return Driver(tuning=replace(tuning, **fields.pop("tuning", {})), **fields)


def deliver(driver: Driver, count: int, start: int = 0, keys: bool = False) -> None:
    driver.deliver(*[record(position, f"k{position}" if keys else None) for position in range(start, start + count)])


def play(driver: Driver, seconds: float, *, answer: tuple[act.FailureKind, ...] = ()) -> list[tuple[float, int]]:
    """(moment, position) of every start within so many seconds; each job ends 1 ms later, with a failure if one is given."""
    began, kinds = driver.now, list(answer)
    starts: list[tuple[float, int]] = []
    jobs = driver.jobs()
    while driver.now <= began + seconds:
        starts += [(driver.now - began, one.position) for job in jobs for one in job.records]
        due = driver.machine.due()
        if not jobs and (due is None or due > began + seconds):
            break
        driver.now = driver.now + 0.001 if jobs else max(driver.now, due or 0.0)
        ended = []
        for job in jobs:
            kind = kinds.pop(0) if kinds else None
            ended.append(act.Finished(job, () if kind is None else [(job.records[0], failure(kind))], (), 0.001))
        driver.feed(*ended)
        jobs = driver.jobs()
    return starts


# --- rate -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "burst"), [(200.0, 20), (2000.0, 200), (15.0, 1), (0.5, 1), (5 / 3600, 1)])
@pytest.mark.parametrize("ordered", [False, True])
def test_in_any_span_no_more_start_than_the_burst_and_the_rate_allow(rate: float, burst: int, ordered: bool) -> None:
    driver = limited(rate, ordered=ordered)
    deliver(driver, 500, keys=True)
    starts = [moment for moment, _ in play(driver, 200 / rate)]
    assert len([one for one in starts if one == 0]) == burst
    for first, since in enumerate(starts):
        for count, until in enumerate(starts[first:], 1):
            assert count <= burst + rate * (until - since) + 1e-6
    assert 190 + burst <= len(starts) <= 200 + burst


def test_a_high_rate_does_not_wake_the_consumer_for_every_message() -> None:
    driver = limited(5000.0, tuning={"concurrency": 1})
    deliver(driver, 500)
    feeds = 0
    while driver.now < 100.1:
        for job in driver.jobs():
            driver.now += 1e-5
            driver.feed(act.Finished(job, (), (), 1e-6 * len(job.records)))
            break
        else:
            due = driver.machine.due()
            assert due is not None
            assert due > driver.now
            driver.now = due
            driver.feed()
        feeds += 1
    assert driver.machine.view().handled == 500
    assert feeds < 50


def test_a_moment_that_is_waited_for_starts_something() -> None:
    """Else a consumer would wake, find itself too early by a rounding, and wake again, without end."""
    driver = limited(3.0)
    driver.now = 123_456.789
    deliver(driver, 50)
    for _ in range(40):
        for job in driver.jobs():
            driver.finish(job)
        until = driver.machine._limits.until
        assert until is not None
        assert driver.now < until == pytest.approx(driver.now + 1 / 3, abs=0.01)
        driver.now = until
        driver.feed()
        assert len(driver.started()) == 1


def test_retries_count() -> None:
    driver = limited(1.0)
    [job] = driver.deliver(record(0))
    driver.finish(job, (record(0), failure(after_s=0.2)))
    driver.deliver(record(1))
    assert driver.started() == []
    [(moment, position)] = play(driver, 1.5)
    assert position == 0
    assert moment == pytest.approx(1.0)
    [(moment, position)] = play(driver, 1.0)
    assert position == 1
    assert moment == pytest.approx(1.0, abs=0.01)


def test_a_batch_counts_its_messages_and_is_not_cut() -> None:
    driver = limited(100.0, batch=50)
    deliver(driver, 200)
    assert [len(job.records) for job in driver.jobs()] == [50]
    starts = [moment for moment, _ in play(driver, 1.2)]
    assert sorted(set(starts)) == [0, *(pytest.approx(0.5 * n) for n in (1, 2))]
    assert len(starts) == 150


def test_what_never_started_is_given_back() -> None:
    driver = limited(1000.0, tuning={"concurrency": 1})
    deliver(driver, 100)
    [job] = driver.jobs()
    assert len(job.records) == 8
    driver.feed(act.Returned(job, job.records[1:]))
    driver.finish(job)
    taken = 1
    while jobs := driver.jobs():
        taken += len(jobs[0].records)
        driver.feed(act.Finished(jobs[0], (), (), 0.00005 * len(jobs[0].records)))
    assert taken == 100
    driver = limited(1000.0, tuning={"concurrency": 1})
    deliver(driver, 8)
    [job] = driver.jobs()
    driver.finish(job, skipped=job.records)
    assert len(driver.started()) == 8


def test_a_job_is_given_to_a_free_worker_only() -> None:
    driver = limited(1000.0, tuning={"concurrency": 2})
    deliver(driver, 100)
    assert len(driver.jobs()) == 2


def test_another_rate_holds_at_once_in_both_directions() -> None:
    driver = limited(5 / 3600)
    deliver(driver, 100)
    [job] = driver.jobs()
    driver.finish(job)
    driver.feed(act.Retuned(replace(MANY_WORKERS, rate_per_s=100.0)), after=1.0)
    assert len(play(driver, 0.2)) >= 20
    driver.feed(act.Retuned(replace(MANY_WORKERS, rate_per_s=1.0)))
    assert 9 <= len(play(driver, 10.0)) <= 11
    driver.feed(act.Retuned(MANY_WORKERS))
    assert len(play(driver, 0.1)) > 50


def test_a_reload_that_leaves_the_rate_refills_nothing() -> None:
    driver = limited(1.0)
    deliver(driver, 3)
    for _ in range(5):
        driver.feed(act.Retuned(replace(MANY_WORKERS, rate_per_s=1.0, concurrency=9)), after=0.1)
        assert driver.started() == []


def test_a_consumer_that_its_rate_holds_back_is_not_stalled_and_one_that_hangs_is() -> None:
    driver = limited(5 / 3600, tuning={"stuck_after_s": 60.0})
    deliver(driver, 3)
    [job] = driver.jobs()
    driver.finish(job)
    for _ in range(70):
        driver.feed(after=10.0)
    assert driver.reported(Stalled) == []
    driver.feed(after=30.0)
    assert len(driver.jobs()) == 1
    driver.feed(after=1.0)
    driver.feed(after=61.0)
    assert len(driver.reported(Stalled)) == 1


def test_partitions_take_turns_under_a_rate() -> None:
    driver = limited(10.0)
    other = spi.Partition("orders", 1)
    driver.assign(partition=other)
    records = [record(position) for position in range(10)]
    driver.feed(driver.batch(*records), driver.batch(*records, partition=other))
    first = play(driver, 0.95)
    assert sorted(position for _, position in first) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_nothing_wakes_a_limited_consumer_that_is_paused_or_has_nothing() -> None:
    driver = limited(1.0)
    deliver(driver, 1)
    driver.finish(driver.jobs()[0])
    driver.settled()
    assert driver.machine.due() is None
    deliver(driver, 1, start=1)
    assert driver.machine.due() == pytest.approx(driver.now + 1.0)
    driver.feed(act.Pause(True))
    assert driver.machine.due() is None


# --- breaker ------------------------------------------------------------------------------------------------------------------------


def broken(policy: BreakerPolicy = POLICY_OF_TWO, **fields: Any) -> Driver:
    """A machine whose breaker is open since two failures."""
    driver = Driver(tuning=replace(ONE_WORKER, breaker=policy), **fields)
    fail_two(driver)
    return driver


def fail_two(driver: Driver, start: int = 0) -> None:
    jobs = driver.deliver(record(start, "a"), record(start + 1, "b"))
    driver.finish(jobs[0], *[(one, failure(after_s=1000.0)) for one in jobs[0].records])


def states(driver: Driver) -> list[str]:
    return [event.state for event in driver.reported(BreakerChanged)]


@pytest.mark.parametrize("ordered", [False, True])
def test_it_opens_when_too_many_attempts_fail_and_then_nothing_starts(ordered: bool) -> None:
    driver = broken(ordered=ordered)
    [event] = driver.reported(BreakerChanged)
    assert event == BreakerChanged("orders", "billing", "main", "open", 2, 2, 10.0)
    assert driver.of(act.Recall) == [act.Recall()]
    assert driver.machine.view().breaker == "open"
    deliver(driver, 5, start=2)
    driver.feed(after=9.9)
    assert driver.started() == []
    assert driver.machine.due() == pytest.approx(110.0)


@pytest.mark.parametrize(
    ("policy", "kinds", "opens"),
    [
        (BreakerPolicy(failures=0.5, minimum=4), ["error"] * 3, False),
        (BreakerPolicy(failures=0.5, minimum=4), ["error"] * 4, True),
        (BreakerPolicy(failures=0.5, minimum=4), ["ok", "ok", "ok", "error"], False),
        (BreakerPolicy(failures=0.5, minimum=4), ["ok", "error", "ok", "error"], True),
        (BreakerPolicy(failures=1.0, minimum=4), ["error", "timeout", "retry", "error"], True),
        (BreakerPolicy(failures=1.0, minimum=4), ["error", "ok", "error", "error"], False),
        (BreakerPolicy(failures=0.55, minimum=20), ["ok"] * 9 + ["error"] * 11, True),
        (BreakerPolicy(failures=0.5, minimum=2), ["reject"] * 9 + ["undecodable"] * 9 + ["error"], False),
    ],
)
def test_it_opens_at_its_share_of_its_minimum_of_attempts(policy: BreakerPolicy, kinds: list[Any], opens: bool) -> None:
    driver = Driver(tuning=replace(ONE_WORKER, breaker=policy))
    for position, kind in enumerate(kinds):
        [job] = driver.deliver(record(position))
        driver.finish(job, *([] if kind == "ok" else [(job.records[0], failure(kind, after_s=1000.0))]))
    assert states(driver) == (["open"] if opens else [])


def test_what_failed_before_the_window_does_not_count() -> None:
    policy = BreakerPolicy(failures=0.5, minimum=2, window_s=10.0)
    driver = Driver(tuning=replace(ONE_WORKER, breaker=policy))
    for position, wait in ((0, 0.0), (1, 10.1), (2, 8.9)):
        [job] = driver.deliver(record(position))
        driver.finish(job, (job.records[0], failure(after_s=1000.0)), after=wait)
        assert states(driver) == (["open"] if position == 2 else [])


def test_one_message_is_tried_at_a_time_and_a_success_closes_it() -> None:
    driver = broken()
    deliver(driver, 5, start=2)
    driver.feed(after=10.0)
    assert driver.started() == [2]
    assert states(driver) == ["open", "probing"]
    [probe] = driver.jobs()
    driver.feed(after=50.0)
    assert driver.started() == []
    driver.finish(probe, (probe.records[0], failure(after_s=1000.0)))
    assert states(driver) == ["open", "probing", "open"]
    driver.feed(after=9.9)
    assert driver.started() == []
    driver.feed(after=0.2)
    assert driver.started() == [3]
    [probe] = driver.jobs()
    driver.finish(probe)
    assert states(driver) == ["open", "probing", "open", "probing", "closed"]
    assert driver.started() == [4, 5, 6]
    assert driver.machine.view().breaker == "closed"


def test_a_probe_of_batches_is_one_message_without_a_wait() -> None:
    driver = broken(batch=2, batch_wait_s=5.0)
    deliver(driver, 1, start=2)
    driver.feed(after=10.0)
    assert driver.started() == [2]
    assert driver.jobs()[0].batch


def test_probes_go_around_so_that_nothing_is_dead_lettered_because_of_them() -> None:
    driver = Driver(tuning=replace(ONE_WORKER, breaker=replace(POLICY_OF_TWO, probe_s=1.0)))
    [job] = driver.deliver(record(0), record(1))
    driver.finish(job, *[(one, failure()) for one in job.records])
    deliver(driver, 50, start=2)
    for position in range(2, 52):
        driver.feed(after=1.0)
        assert driver.started() == [position]
        driver.finish(driver.jobs()[0], (driver.jobs()[0].records[0], failure()))
    assert driver.copies() == []
    assert driver.reported(DeadLettered) == []
    driver.feed(after=1.0)
    assert driver.started() == [0]  # without new messages those that failed before


def test_an_ordered_probe_takes_what_waits_for_a_retry_when_nothing_else_is_ready() -> None:
    driver = Driver(ordered=True, tuning=replace(ONE_WORKER, breaker=POLICY_OF_TWO))
    [job] = driver.deliver(record(0, "a"), record(1, "b"))
    driver.finish(job, *[(one, failure()) for one in job.records])
    driver.feed(after=9.0)
    assert driver.started() == []
    driver.feed(after=1.0)
    assert driver.started() == [0]
    driver.finish(driver.jobs()[0])
    assert driver.started() == [1]


def test_a_probe_that_says_nothing_is_followed_by_another_at_once() -> None:
    driver = broken()
    deliver(driver, 3, start=2)
    driver.feed(after=10.0)
    driver.finish(driver.jobs()[0], (driver.jobs()[0].records[0], failure("reject")))
    assert driver.started() == [3]
    driver.finish(driver.jobs()[0], skipped=driver.jobs()[0].records)
    assert driver.started() == [3]
    driver.finish(driver.jobs()[0])
    assert states(driver) == ["open", "probing", "closed"]


def test_a_probe_whose_partition_is_lost_is_not_waited_for() -> None:
    driver = broken()
    driver.assign(partition=spi.Partition("orders", 1))
    deliver(driver, 1, start=2)
    driver.feed(after=10.0)
    [probe] = driver.jobs()
    driver.feed(spi.Lost(P0, 1), driver.batch(record(0), partition=spi.Partition("orders", 1)))
    assert driver.started() == []
    driver.finish(probe)
    assert driver.started() == [0]
    assert states(driver)[-1] == "closed"


def test_a_probe_that_passes_its_timeout_has_failed_and_its_end_changes_nothing() -> None:
    driver = broken()
    deliver(driver, 3, start=2)
    driver.feed(after=10.0)
    [probe] = driver.jobs()
    driver.feed(act.Overdue(probe, probe.records[0], 300.0, timed_out=True), after=300.0)
    assert states(driver) == ["open", "probing", "open"]
    driver.finish(probe)
    assert driver.started() == []
    driver.feed(after=10.0)
    assert driver.started() == [3]


def test_what_still_ran_when_it_opened_changes_nothing() -> None:
    driver = Driver(tuning=replace(MANY_WORKERS, breaker=POLICY_OF_TWO), is_async=True)
    jobs = driver.deliver(*[record(position) for position in range(8)])
    assert len(jobs) == 8
    for job in jobs[:2]:
        driver.finish(job, (job.records[0], failure(after_s=1000.0)))
    driver.finish(jobs[2])
    driver.finish(jobs[3], (jobs[3].records[0], failure(after_s=1000.0)))
    assert states(driver) == ["open"]
    deliver(driver, 1, start=8)
    driver.feed(after=10.0)
    driver.finish(driver.jobs()[0])
    for job in jobs[4:]:
        driver.finish(job, (job.records[0], failure(after_s=1000.0)))
    assert states(driver) == ["open", "probing", "closed"]


def test_what_waits_to_be_written_down_does_not_start_after_it_opened() -> None:
    driver = Driver(assign=False, tuning=replace(MANY_WORKERS, breaker=POLICY_OF_TWO), is_async=True, sparse_bytes=4096)
    driver.assign(clean=False, end=100)
    driver.settled()
    driver.deliver(*[record(position) for position in range(3)])
    driver.settled()
    first, second, third = driver.jobs()
    driver.deliver(record(3), record(4))
    driver.feed(*[act.Finished(job, [(job.records[0], failure(after_s=1000.0))]) for job in (first, second, third)])
    assert states(driver) == ["open"]
    driver.settled()
    driver.feed(after=0.1)
    driver.settled()
    assert driver.jobs() == []
    driver.feed(after=10.0)
    driver.settled()
    assert len(driver.started()) == 1


def test_a_reload_changes_the_wait_and_takes_the_breaker_away() -> None:
    driver = broken()
    deliver(driver, 5, start=2)
    driver.feed(act.Retuned(replace(ONE_WORKER, breaker=replace(POLICY_OF_TWO, probe_s=3.0))), after=1.0)
    assert driver.machine.due() == pytest.approx(103.0)
    driver.feed(act.Retuned(ONE_WORKER), after=1.0)
    assert states(driver) == ["open", "closed"]
    assert driver.machine.view().breaker is None
    assert driver.started() == [2, 3, 4, 5, 6]


def test_an_open_breaker_is_not_stalled_and_ends_with_a_drain() -> None:
    driver = Driver(tuning=replace(ONE_WORKER, breaker=replace(POLICY_OF_TWO, probe_s=3600.0), stuck_after_s=60.0))
    fail_two(driver)
    deliver(driver, 5, start=2)
    for _ in range(20):
        driver.feed(after=10.0)
    assert driver.reported(Stalled) == []
    driver.feed(act.Drain(driver.now + 5.0))
    driver.settled()
    assert driver.of(act.Drained) == [act.Drained(0, 0)]


def test_a_probe_needs_a_token_of_the_rate_too() -> None:
    driver = Driver(tuning=replace(ONE_WORKER, rate_per_s=0.01, breaker=replace(POLICY_OF_TWO, minimum=1)))
    [job] = driver.deliver(record(0))
    driver.finish(job, (record(0), failure(after_s=1000.0)))
    deliver(driver, 5, start=1)
    driver.feed(after=10.0)
    assert driver.started() == []
    assert driver.machine.due() == pytest.approx(200.0)
    driver.feed(after=90.0)
    assert driver.started() == [1]
