"""A topic and its group's retry topic: one message of a key at a time, and what users see of a redriven message."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core.machine import Machine
from mqsdk.message import Message
from mqsdk.spi import events as spi
from tests.core.driving import P0, POLICY, Driver, failure, record

RETRY = "orders.billing.retry"
R0 = spi.Partition(RETRY, 0)
WORKERS = act.Tuning(concurrency=4, retry=POLICY)


def twins(ordered: bool = True, **spec: Any) -> Driver:
    driver = Driver(ordered=ordered, retry=RETRY, tuning=WORKERS, **spec)
    driver.assign(partition=R0, epoch=1)
    return driver


def redriven(driver: Driver, *records: spi.Record) -> list[act.Job]:
    return driver.deliver(*records, partition=R0)


def test_a_redriven_message_waits_for_the_one_of_its_key_that_runs() -> None:
    driver = twins()
    [running] = driver.deliver(record(0, "a"))
    jobs = redriven(driver, record(0, "a"), record(1, "b"))
    assert [one.key for job in jobs for one in job.records] == [b"b"]
    driver.finish(running)
    [job] = driver.jobs()
    assert (job.partition, job.records[0].key) == (R0, b"a")


def test_a_new_message_waits_for_the_redriven_one_that_runs() -> None:
    driver = twins()
    [running] = redriven(driver, record(0, "a"))
    assert driver.deliver(record(0, "a")) == []
    driver.finish(running)
    assert [job.partition for job in driver.jobs()] == [P0]


def test_neither_of_two_busy_topics_wins_every_time() -> None:
    driver, turns = twins(), []
    jobs = driver.deliver(record(0, "a"))
    redriven(driver, *[record(position, "a") for position in range(1)])
    for position in range(1, 5):
        [job] = jobs
        turns.append(job.partition)
        driver.deliver(record(position, "a"), partition=job.partition)
        driver.finish(job)
        jobs = driver.jobs()
    assert turns == [P0, R0, P0, R0]


def test_a_retry_that_is_due_waits_too() -> None:
    driver = twins()
    [job] = driver.deliver(record(0, "a"))
    driver.finish(job, (job.records[0], failure()))
    [running] = redriven(driver, record(0, "a"))
    driver.feed(after=2.0)
    assert driver.jobs() == []
    driver.finish(running)
    assert [(job.partition, job.attempt) for job in driver.jobs()] == [(P0, 2)]


def test_a_handler_that_outlives_its_ownership_still_holds_its_key() -> None:
    driver = twins()
    [orphan] = driver.deliver(record(0, "a"))
    driver.feed(spi.Lost(P0, 1), spi.Lost(R0, 1))
    driver.assign(epoch=2)
    driver.assign(epoch=2, partition=R0)
    assert driver.deliver(record(0, "a"), epoch=2, partition=R0) == []
    driver.finish(orphan)
    assert [job.partition for job in driver.jobs()] == [R0]


def test_what_the_runtime_takes_back_runs_no_more() -> None:
    driver = Driver(ordered=True, retry=RETRY, tuning=one_worker())
    driver.assign(partition=R0)
    [job] = driver.deliver(record(0, "a"), record(1, "b"))
    redriven(driver, record(0, "b"))
    driver.feed(act.Returned(job, [job.records[1]]))
    assert [(one.partition, one.records[0].key) for one in driver.jobs()][:1] == [(R0, b"b")]


def one_worker() -> act.Tuning:
    return act.Tuning(concurrency=1, retry=POLICY)


def test_an_unordered_consumer_excludes_nothing() -> None:
    driver = twins(ordered=False)
    driver.deliver(record(0, "a"))
    assert len(redriven(driver, record(0, "a"))) == 1


def test_a_batch_is_made_of_what_does_not_run_elsewhere() -> None:
    driver = twins(batch=2)
    [running] = driver.deliver(record(0, "a"))
    [job] = redriven(driver, record(0, "a"), record(1, "b"))
    assert [one.key for one in job.records] == [b"b"]
    driver.finish(running)
    assert [one.key for job in driver.jobs() for one in job.records] == [b"a"]


def test_users_see_the_topic_and_the_fence_of_the_topics_partition() -> None:
    driver = Driver(assign=False, retry=RETRY, tuning=WORKERS)
    driver.assign(epoch=7)
    driver.assign(partition=R0, epoch=2)
    [job] = driver.deliver(record(0, "a"), epoch=2, partition=R0)
    message: Message[Any] = Message(job.records[0], job.origin, None)
    assert (message.topic, message.partition, message.epoch, job.origin.epoch) == ("orders", 0, 7, 2)


def fails_for_good(driver: Driver, message: spi.Record) -> dict[str, str]:
    [job] = redriven(driver, message)
    driver.finish(job, (job.records[0], failure("reject")))
    return dict(driver.copies()[-1].extra)


def test_a_dead_letter_of_a_redriven_message_names_the_original() -> None:
    extra = fails_for_good(twins(), record(4, "a", extra=(("mq-redrive-of", "orders:3:17"),)))
    named = {name: extra[f"mq-dlq-{name}"] for name in ("topic", "partition", "position", "attempts")}
    assert named == {"topic": "orders", "partition": "3", "position": "17", "attempts": "1"}


@pytest.mark.parametrize("text", ["", "orders", "orders:x:1", "other:3:17", "orders:3:", "orders:99999999999999:1", ":::"])
def test_what_does_not_parse_is_not_believed(text: str) -> None:
    extra = fails_for_good(twins(), record(4, "a", extra=(("mq-redrive-of", text),)))
    assert (extra["mq-dlq-partition"], extra["mq-dlq-position"]) == ("0", "4")


@pytest.mark.parametrize("ordered", [True, False])
def test_removals_among_dead_letters_are_settled_unseen(ordered: bool) -> None:
    driver = Driver(assign=False, ordered=ordered)
    driver.machine = Machine(act.Spec("orders.billing.dlq", "audit", "main", ordered=ordered), one_worker(), Random(0))
    letters = spi.Partition("orders.billing.dlq", 0)
    driver.assign(partition=letters)
    removal = record(1, extra=(("mq-dlq-done", "0"),))
    [job] = driver.deliver(record(0, "a"), removal, record(2, "a"), partition=letters)
    driver.settled()
    assert [one.position for one in job.records] == [0, 2]
    driver.finish(job)
    assert (driver.settles()[-1].watermark, driver.machine.view().records) == (3, 0)
