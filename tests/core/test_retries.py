"""Failures: what runs again when, what becomes a dead letter, and what waits meanwhile."""

from __future__ import annotations

import pytest

from mqsdk.core import actions as act
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.core.sparse import encode
from mqsdk.events import DeadLetterDelayed, DeadLettered, Dropped, Retried, Stuck
from mqsdk.spi import events as spi
from tests.core.driving import Driver, failure, record


def fail(driver: Driver, job: act.Job, kind: act.FailureKind = "error", after_s: float | None = None) -> None:
    driver.finish(job, (job.records[0], failure(kind, after_s)), skipped=job.records[1:])


def test_a_failed_message_runs_again_after_its_backoff_and_not_earlier() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    fail(driver, job)
    assert driver.machine.due() == driver.now + 1
    assert driver.feed(after=0.999) == []
    driver.feed(after=0.001)
    [again] = driver.jobs()
    assert again.attempt == 2
    fail(driver, again)
    driver.feed(after=1.999)
    assert driver.jobs() == []
    driver.feed(after=0.001)
    assert driver.jobs()[0].attempt == 3
    assert [event.delay_s for event in driver.reported(Retried)] == [1, 2]


def test_a_handler_may_ask_for_its_own_wait() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    fail(driver, job, "retry", after_s=7.0)
    driver.feed(after=6.9)
    assert driver.jobs() == []
    driver.feed(after=0.1)
    assert driver.started() == [0]


def test_a_failing_key_does_not_stop_the_others() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"))
    fail(driver, job)
    [other] = driver.deliver(record(1, "b"), record(2, "a"))
    assert [one.position for one in other.records] == [1]
    driver.finish(other)
    driver.feed(after=1)
    [again] = driver.jobs()
    driver.finish(again)
    assert driver.started() == [2]


def test_skipped_messages_of_a_failed_key_come_after_it_in_order() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"), record(1, "a"), record(2, "a"))
    assert [one.position for one in job.records] == [0, 1, 2]
    driver.deliver(record(3, "a"))
    driver.finish(job, (job.records[0], failure()), skipped=job.records[1:])
    driver.feed(after=1)
    assert driver.started() == [0]
    driver.finish(driver.jobs()[0])
    assert driver.started() == [1, 2, 3]


def test_attempts_used_up_make_a_dead_letter_that_is_confirmed_before_the_settle() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0, "k", id="m-1"))
    fail(driver, job)
    first_failure = driver.now
    for wait in (1, 2):
        driver.feed(after=wait)
        fail(driver, driver.jobs()[0])
    [copy] = driver.copies()
    assert copy.topic == "orders.billing.dlq"
    assert all(progress.watermark == 0 for progress in driver.settles())
    assert dict(copy.extra) == {
        "mq-dlq-topic": "orders",
        "mq-dlq-group": "billing",
        "mq-dlq-partition": "0",
        "mq-dlq-position": "0",
        "mq-dlq-attempts": "3",
        "mq-dlq-reason": "exhausted",
        "mq-dlq-error": "ValueError: no",
        "mq-dlq-first-at": str(round((first_failure + 1_000_000) * 1000)),
        "mq-dlq-last-at": str(round((driver.now + 1_000_000) * 1000)),
    }
    driver.feed(act.CopyDone(copy.token, spi.Stored(4)), after=2)
    assert driver.settles()[-1].watermark == 1
    assert driver.reported(DeadLettered) == [DeadLettered("orders", "billing", "main", "m-1", 3, "exhausted", "ValueError: no")]


@pytest.mark.parametrize(("kind", "reason"), [("reject", "rejected"), ("undecodable", "undecodable")])
def test_what_can_never_succeed_is_dead_lettered_at_once_even_if_exhausted_ones_are_dropped(kind: act.FailureKind, reason: str) -> None:
    policy = RetryPolicy(attempts=5, on_exhausted="drop")
    driver = Driver(tuning=act.Tuning(retry=policy), dead_letter="graveyard")
    [job] = driver.deliver(record(0))
    fail(driver, job, kind)
    [copy] = driver.copies()
    assert (copy.topic, dict(copy.extra)["mq-dlq-reason"]) == ("graveyard", reason)


def test_drop_lets_a_message_go_and_says_so() -> None:
    driver = Driver(tuning=act.Tuning(retry=RetryPolicy(attempts=1, on_exhausted="drop")))
    [job] = driver.deliver(record(0))
    fail(driver, job)
    assert driver.reported(Dropped) == [Dropped("orders", "billing", "main", "main:orders:0:0", 1, "ValueError: no")]
    assert driver.settles()[-1].watermark == 1
    assert driver.copies() == []


@pytest.mark.parametrize("outcome", [spi.Rejected("full", "no space left"), spi.Unknown("no answer")])
def test_a_dead_letter_that_is_not_stored_is_tried_again_while_its_key_waits(outcome: spi.Outcome) -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"), record(1, "a"))
    fail(driver, job, "reject")
    for wait in (1, 2, 4, 8, 16, 30, 30):
        driver.feed(act.CopyDone(driver.copies()[-1].token, outcome))
        copies = len(driver.copies())
        driver.feed(after=wait - 0.01)
        assert len(driver.copies()) == copies
        driver.feed(after=0.01)
        assert len(driver.copies()) == copies + 1
        assert driver.jobs() == []
    assert len(driver.reported(DeadLetterDelayed)) == 1
    driver.feed(act.CopyDone(driver.copies()[-1].token, spi.Stored(0)))
    assert driver.started() == [1]


def test_a_late_answer_of_an_earlier_copy_changes_nothing() -> None:
    driver = Driver()
    fail(driver, driver.deliver(record(0))[0], "reject")
    first = driver.copies()[0].token
    driver.feed(act.CopyDone(first, spi.Unknown("no answer")))
    driver.feed(act.CopyDone(first, spi.Stored(0)))
    assert driver.settles() == [] or driver.settles()[-1].watermark == 0


def test_the_error_in_a_dead_letter_is_one_line_of_at_most_a_kibibyte() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.finish(job, (job.records[0], failure("reject", error="É\r\nX-Injected: 1" + "é" * 2000 + "\ud800")))
    error = dict(driver.copies()[0].extra)["mq-dlq-error"]
    assert len(error.encode()) <= 1024
    assert "\r" not in error
    assert "\n" not in error


def test_failed_attempts_survive_a_change_of_owner_and_wait_a_whole_backoff() -> None:
    driver = Driver(assign=False, ordered=True)
    driver.assign(position=5, sparse=encode(5, [(7, 9)], {6: 2}, 1000))
    driver.deliver(record(5, "a"), record(6, "b"), record(7, "c"), record(8, "a"), record(9, "b"))
    assert driver.started() == [5]
    driver.feed(after=1.99)
    assert driver.jobs() == []
    driver.feed(after=0.01)
    [again] = driver.jobs()
    assert (again.attempt, again.records[0].position) == (3, 6)


def test_attempts_used_up_before_a_restart_are_dead_lettered_without_a_run() -> None:
    driver = Driver(assign=False)
    driver.assign(sparse=encode(0, [], {0: 3}, 1000))
    assert driver.deliver(record(0)) == []
    assert dict(driver.copies()[0].extra)["mq-dlq-attempts"] == "3"


def test_a_retry_copy_starts_with_the_attempt_that_it_carries() -> None:
    driver = Driver()
    jobs = driver.deliver(record(0), record(1, attempt=3), record(2))
    assert {(one.position, job.attempt) for job in jobs for one in job.records} == {(0, 1), (1, 3), (2, 1)}


def test_fewer_attempts_in_the_configuration_end_a_waiting_retry() -> None:
    driver = Driver()
    fail(driver, driver.deliver(record(0))[0])
    driver.feed(act.Retuned(act.Tuning(retry=RetryPolicy(attempts=1, backoff=Backoff(1)))))
    driver.feed(after=1)
    assert driver.jobs() == []
    assert len(driver.copies()) == 1


def test_several_failures_of_one_key_in_a_batch_run_one_after_the_other() -> None:
    driver = Driver(ordered=True, batch=10)
    [job] = driver.deliver(record(0, "a"), record(1, "b"), record(2, "a"))
    assert job.batch
    driver.finish(job, *[(one, failure()) for one in job.records])
    driver.feed(after=1)
    jobs = driver.jobs()
    assert [(again.attempt, len(again.records), again.batch) for again in jobs] == [(2, 1, True)] * 2
    assert sorted(driver.started()) == [0, 1]
    driver.finish(next(again for again in jobs if again.records[0].position == 0))
    assert driver.started() == [2]


def test_a_later_batch_failure_waits_for_the_dead_letter_of_its_key() -> None:
    driver = Driver(ordered=True, batch=10)
    [job] = driver.deliver(record(0, "a"), record(1, "a"))
    driver.finish(job, (job.records[0], failure("reject")), (job.records[1], failure()))
    driver.feed(after=5)
    assert driver.jobs() == []
    driver.feed(act.CopyDone(driver.copies()[0].token, spi.Stored(0)))
    assert driver.started() == [1]


def test_an_overdue_call_is_reported_once_and_cancelled_and_its_key_stays_blocked() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a", id="m-1"))
    driver.deliver(record(1, "a"), record(2, "b"))
    slow = act.Overdue(job, job.records[0], 130.0, False, "shop.py:3 in bill")
    late = act.Overdue(job, job.records[0], 301.0, True, "shop.py:3 in bill")
    driver.feed(slow)
    assert driver.of(act.Cancel) == []
    driver.feed(slow, late)
    assert driver.of(act.Cancel) == [act.Cancel(job, job.records[0])]
    assert [event.age_s for event in driver.reported(Stuck)] == [130.0, 301.0]
    assert driver.machine.view().waiting == 2
    driver.finish(job)
    assert driver.started() == [1]


def test_a_cancelled_call_is_a_failed_attempt() -> None:
    driver = Driver(is_async=True)
    [job] = driver.deliver(record(0))
    fail(driver, job, "timeout")
    driver.feed(after=1)
    assert driver.jobs()[0].attempt == 2


def test_a_carried_attempt_and_a_restored_count_are_not_added_up() -> None:
    driver = Driver(assign=False)
    driver.assign(sparse=encode(0, [], {0: 1}, 1000))
    driver.deliver(record(0, attempt=2))
    driver.feed(after=1)
    assert driver.jobs()[0].attempt == 2


@pytest.mark.parametrize("limits", [{"concurrency": 0}, {"in_flight_records": 0}, {"in_flight_bytes": 0}])
def test_limits_that_let_nothing_through_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Driver(tuning=act.Tuning(**limits))  # type: ignore[arg-type]


# --- long waits where layer 2 delays --------------------------------------------------------------------------------------------------


def parking() -> Driver:
    """Waits of more than 10 s are not kept in memory."""
    policy = RetryPolicy(attempts=3, backoff=Backoff(20, factor=2, max=60, jitter=0.0))
    return Driver(tuning=act.Tuning(concurrency=1, retry=policy), retry="orders.billing.retry", longest_wait_s=10.0)


def test_a_long_wait_is_a_delayed_copy_for_the_group_confirmed_before_the_settle() -> None:
    driver = parking()
    [job] = driver.deliver(record(0, "k", extra=(("mq-x", "y"),)))
    fail(driver, job)
    [copy] = driver.of(act.Copy)
    assert (copy.topic, copy.attempt, copy.record.position) == ("orders.billing.retry", 2, 0)
    assert copy.extra == (("mq-x", "y"), ("mq-redrive-of", "orders:0:0"))
    assert copy.due_ms == round((1_000_000.0 + driver.now + 20) * 1000)
    driver.feed(after=5)
    assert [action.progress.watermark for action in driver.log if isinstance(action, act.Settle)] in ([], [0])
    driver.feed(act.CopyDone(copy.token, spi.Stored()))
    driver.feed(after=1)
    assert [action.progress.watermark for action in driver.log if isinstance(action, act.Settle)][-1] == 1
    driver.feed(after=60)
    assert driver.jobs() == []
    assert [(event.attempt, event.delay_s) for event in driver.reported(Retried)] == [(1, 20)]
    assert driver.reported(DeadLettered) == []


@pytest.mark.parametrize("outcome", [spi.Rejected("throttled", "full", True), spi.Unknown("no answer")])
def test_a_long_wait_whose_copy_is_not_confirmed_is_waited_for_here(outcome: spi.Outcome) -> None:
    driver = parking()
    [job] = driver.deliver(record(0))
    fail(driver, job)
    [copy] = driver.of(act.Copy)
    driver.feed(act.CopyDone(copy.token, outcome), after=1)
    assert driver.jobs() == []
    driver.feed(after=18.9)
    assert driver.jobs() == []
    driver.feed(after=0.1)
    [again] = driver.jobs()
    assert again.attempt == 2
    assert driver.reported(DeadLetterDelayed) == []


def test_a_short_wait_stays_here_and_the_last_attempt_is_a_dead_letter() -> None:
    short = parking()
    [job] = short.deliver(record(0))
    fail(short, job, "retry", after_s=10.0)
    assert short.of(act.Copy) == []
    short.feed(after=10)
    assert short.started() == [0]
    last = parking()
    [job] = last.deliver(record(0, attempt=3))
    fail(last, job)
    assert [(copy.topic, copy.due_ms) for copy in last.of(act.Copy)] == [("orders.billing.dlq", None)]


def test_a_long_wait_of_a_partition_that_is_handed_back_stays_with_it() -> None:
    """A copy would race with the next owner, who is given the message anyway."""
    driver = parking()
    [job] = driver.deliver(record(0))
    driver.feed(act.Drain(driver.now + 30))
    fail(driver, job)
    assert driver.of(act.Copy) == []
    assert [action.progress.watermark for action in driver.log if isinstance(action, act.Settle)][-1] == 0
