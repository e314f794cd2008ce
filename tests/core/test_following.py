"""`dlq_follow_key`: what follows a dead letter, from when on, and until when."""

from __future__ import annotations

from typing import Any

from mqsdk.core import actions as act
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.events import DeadLettered
from mqsdk.spi import events as spi
from tests.core.driving import Driver, failure, record

RETRY = spi.Partition("orders.billing.retry", 0)


def policy(follows: bool = True) -> act.Tuning:
    return act.Tuning(concurrency=1, retry=RetryPolicy(1, Backoff(1, jitter=0.0), dlq_follow_key=follows))


def driver(*keys: str, reads: bool = True, **spec: Any) -> Driver:
    """A consumer whose partition is owned; the letters of these keys are read."""
    given: dict[str, Any] = {"ordered": True, "sparse_bytes": 4096, "tuning": policy()} | spec
    at = Driver(**given)
    if reads:
        read(at, *keys)
    return at


def read(at: Driver, *keys: str, asked_at: float | None = None) -> None:
    at.feed(act.Letters(at.now if asked_at is None else asked_at, frozenset(key.encode() for key in keys)))


def fail(at: Driver, job: act.Job) -> None:
    at.finish(job, (job.records[0], failure()), skipped=job.records[1:])


def store(at: Driver) -> None:
    """Confirm the newest copy."""
    at.feed(act.CopyDone(at.copies()[-1].token, spi.Stored()))


def copied(at: Driver) -> list[int]:
    return [copy.record.position for copy in at.copies()]


def test_later_messages_of_the_key_follow_in_order_and_other_keys_run() -> None:
    at = driver()
    [job] = at.deliver(record(0, "a"), record(1, "a"), record(2, "a"))
    fail(at, job)
    assert copied(at) == [0]
    for position in (1, 2):
        store(at)
        assert copied(at) == list(range(position + 1))
    store(at)
    [other] = at.deliver(record(3, "b"), record(4, "a"))
    assert [one.position for one in other.records] == [3]
    assert copied(at) == [0, 1, 2, 4]
    assert dict(at.copies()[-1].extra)["mq-dlq-reason"] == "followed"
    assert dict(at.copies()[-1].extra)["mq-dlq-attempts"] == "0"
    assert [event.reason for event in at.reported(DeadLettered)] == ["exhausted", "followed", "followed"]


def test_without_it_later_messages_run() -> None:
    at = driver(tuning=policy(follows=False))
    [job] = at.deliver(record(0, "a"), record(1, "a"))
    fail(at, job)
    store(at)
    assert at.started() == [1]


def test_a_message_that_comes_while_the_letter_is_under_way_follows_it() -> None:
    at = driver()
    [job] = at.deliver(record(0, "a"))
    fail(at, job)
    at.deliver(record(1, "a"))
    assert copied(at) == [0]
    store(at)
    assert copied(at) == [0, 1]


def test_nothing_starts_before_the_letters_are_read() -> None:
    at = driver(reads=False)
    assert at.of(act.AskLetters) == [act.AskLetters()]
    assert [credit for credit in at.of(act.Credit) if credit.records] == []
    at.feed(at.batch(record(0, "b")))
    assert at.jobs() == []
    read(at, "a")
    assert at.started() == [0]


def test_what_was_read_before_the_partition_came_does_not_count() -> None:
    """The last owner may have stored a letter since."""
    at = driver(reads=False)
    read(at, asked_at=at.now - 0.001)
    assert at.of(act.Credit) == []
    read(at)
    assert at.of(act.Credit) != []


def test_letters_of_earlier_owners_are_followed() -> None:
    at = driver("a")
    assert [one.records[0].position for one in at.deliver(record(0, "a"), record(1, "b"))] == [1]
    assert copied(at) == [0]


def test_when_the_letters_are_gone_the_key_goes_on() -> None:
    at = driver("a")
    at.feed(after=1)
    read(at)
    assert [one.records[0].position for one in at.deliver(record(0, "a"))] == [0]


def test_a_letter_that_was_stored_after_the_reading_began_still_counts() -> None:
    at = driver()
    began = at.now
    at.feed(after=1)
    [job] = at.deliver(record(0, "a"))
    fail(at, job)
    store(at)
    read(at, asked_at=began)
    at.deliver(record(1, "a"))
    assert copied(at) == [0, 1]
    store(at)
    at.feed(after=1)
    read(at)
    assert [one.records[0].position for one in at.deliver(record(2, "a"))] == [2]


def test_a_letter_of_its_own_makes_the_letters_be_read_again() -> None:
    at = driver()
    [job] = at.deliver(record(0, "a"))
    fail(at, job)
    store(at)
    assert at.of(act.AskLetters) == [act.AskLetters()]


def test_a_letter_of_an_ownership_that_was_lost_makes_the_letters_be_read_again() -> None:
    at = driver()
    [job] = at.deliver(record(0, "a"))
    fail(at, job)
    at.feed(spi.Lost(spi.Partition("orders", 0), 1))
    store(at)
    assert at.of(act.AskLetters) == [act.AskLetters()]
    off = driver(tuning=policy(follows=False), reads=False)
    [job] = off.deliver(record(0, "a"))
    fail(off, job)
    off.feed(spi.Lost(spi.Partition("orders", 0), 1))
    store(off)
    assert off.of(act.AskLetters) == []


def test_an_older_reading_that_comes_late_changes_nothing() -> None:
    at = driver("a")
    read(at, asked_at=at.now - 1)
    at.deliver(record(0, "a"))
    assert copied(at) == [0]


def test_messages_without_key_follow_nobody() -> None:
    at = driver()
    [job] = at.deliver(record(0), record(1))
    fail(at, job)
    store(at)
    assert at.started() == [1]


def test_a_redriven_message_does_not_follow_the_letter_that_it_comes_from() -> None:
    at = driver("a", retry=RETRY.topic)
    at.feed(spi.Assigned(RETRY, 1, 0))
    assert at.of(act.AskLetters) == []
    [job] = at.deliver(record(0, "a"), record(1, "a"), partition=RETRY)
    assert [one.position for one in job.records] == [0, 1]


def test_redriven_messages_follow_one_that_fails_again_beside_them() -> None:
    at = driver("a", retry=RETRY.topic)
    at.feed(spi.Assigned(RETRY, 1, 0))
    [job] = at.deliver(record(0, "a"), record(1, "a"), partition=RETRY)
    fail(at, job)
    store(at)
    assert copied(at) == [0, 1]
    store(at)
    at.feed(after=1)
    read(at)
    assert [one.records[0].position for one in at.deliver(record(2, "a"), partition=RETRY)] == [2]


def test_turned_on_while_running_it_waits_for_a_reading_of_its_own() -> None:
    at = driver(tuning=policy(follows=False), reads=False)
    running = at.deliver(record(0, "b"), record(1, "c"), record(2, "a"), record(3, "d"))
    at.feed(act.Retuned(policy()))
    assert at.of(act.AskLetters) == [act.AskLetters()]
    at.feed(*(act.Finished(job, (), job.records) for job in running), at.batch(record(4, "a")))
    assert at.jobs() == []
    read(at, "a")
    assert copied(at) == [2]
    assert sorted(at.started()) == [0, 1, 3]
    store(at)
    assert copied(at) == [2, 4]


def test_turned_off_nothing_waits_and_nothing_follows() -> None:
    at = driver("a")
    at.feed(act.Retuned(policy(follows=False)))
    assert [one.records[0].position for one in at.deliver(record(0, "a"))] == [0]
    waiting = driver(reads=False)
    waiting.feed(waiting.batch(record(0, "a")))
    waiting.feed(act.Retuned(policy(follows=False)))
    assert waiting.started() == [0]
    waiting.feed(act.Retuned(policy()))
    assert waiting.of(act.AskLetters) == [act.AskLetters()]
