"""Halts: what stands still after the last attempt, for how long, and how it is let go."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core.halting import halts_that_fit
from mqsdk.core.machine import Machine
from mqsdk.core.parking import PARTITION
from mqsdk.core.retry import Backoff, OnExhausted, RetryPolicy
from mqsdk.core.sparse import decode
from mqsdk.events import Dropped, Freed, Halted, SpanExceeded, Stalled
from mqsdk.spi import events as spi
from tests.core.driving import Driver, failure, record

P1 = spi.Partition("orders", 1)


def policy(halt: OnExhausted = "halt_key", attempts: int = 1) -> act.Tuning:
    return act.Tuning(concurrency=1, retry=RetryPolicy(attempts, Backoff(1, jitter=0.0), halt))


def driver(halt: OnExhausted = "halt_key", attempts: int = 1, **spec: Any) -> Driver:
    given: dict[str, Any] = {"ordered": True, "sparse_bytes": 4096, "tuning": policy(halt, attempts)} | spec
    return Driver(**given)


def fail(at: Driver, job: act.Job, kind: act.FailureKind = "error") -> None:
    at.finish(job, (job.records[0], failure(kind)), skipped=job.records[1:])


def halted(halt: OnExhausted = "halt_key", *more: spi.Record, **spec: Any) -> Driver:
    """Message 0 of key a is halted; `more` came after it, and what of that started has not ended."""
    found = driver(halt, **spec)
    [job] = found.deliver(record(0, "a"))
    fail(found, job)
    if more:
        found.deliver(*more)
    return found


def next_owner(of: Driver, *records: spi.Record, clean: bool = True, halt: OnExhausted = "halt_key", **spec: Any) -> Driver:
    """Another process takes over what the last settle has saved, and reads these records."""
    saved = of.settles()[-1]
    found = driver(halt, assign=False, **spec)
    found.assign(saved.watermark, 2, sparse=saved.sparse, clean=clean)
    if records:
        found.deliver(*records, epoch=2)
    return found


def stored(at: Driver) -> spi.Progress:
    """What the backend has when all that is to be told has been told."""
    at.feed(after=2)
    at.settled()
    return at.settles()[-1]


def test_the_key_of_a_halted_message_stands_still_and_the_others_go_on() -> None:
    at = halted("halt_key", record(1, "a"), record(2, "b"), record(3, "a"))
    assert at.started() == [2]
    at.finish(at.jobs()[0])
    assert (at.jobs(), at.copies()) == ([], [])
    assert at.settles()[-1].watermark == 0
    [event] = at.reported(Halted)
    assert event[:3] == ("orders", "billing", "main")
    assert (event.partition, event.position, event.scope, event.attempts, event.error) == (0, 0, "key", 1, "ValueError: no")


def test_it_comes_after_the_last_attempt_and_not_before() -> None:
    at = driver(attempts=2)
    [job] = at.deliver(record(0, "a"))
    fail(at, job)
    assert at.reported(Halted) == []
    at.feed(after=1)
    fail(at, at.jobs()[0])
    assert at.reported(Halted)[0].attempts == 2


def test_rejected_and_undecodable_messages_are_dead_letters_all_the_same() -> None:
    kinds: tuple[act.FailureKind, ...] = ("reject", "undecodable")
    for kind in kinds:
        at = driver()
        [job] = at.deliver(record(0, "a"))
        fail(at, job, kind)
        assert (len(at.copies()), at.reported(Halted)) == (1, [])


def test_the_next_owner_does_not_run_it_and_keeps_its_key_waiting() -> None:
    at = next_owner(halted(), record(0, "a"), record(1, "a"), record(2, "b"))
    assert at.started() == [2]
    assert at.reported(Halted) == []


def test_more_attempts_in_the_configuration_do_not_free_it() -> None:
    old = halted()
    old.feed(act.Retuned(policy("dead_letter", attempts=5)))
    old.feed(after=100)
    assert (old.jobs(), old.copies()) == ([], [])
    saved = old.settles()[-1]
    new = Driver(ordered=True, sparse_bytes=4096, tuning=policy("dead_letter", 5), assign=False)
    new.assign(0, 2, sparse=saved.sparse)
    assert new.deliver(record(0, "a"), record(1, "a"), epoch=2) == []


def test_a_halted_message_is_released_to_run_anew_and_its_key_goes_on() -> None:
    at = halted("halt_key", record(1, "a"))
    at.feed(act.Release(7, "retry", (b"a",)))
    [job] = at.jobs()
    assert ([one.position for one in job.records], job.attempt) == ([0], 1)
    at.finish(job)
    assert at.started() == [1]
    assert [(event.position, event.outcome) for event in at.reported(Freed)] == [(0, "retry")]


@pytest.mark.parametrize("keys", [(b"b",), ()])
def test_a_release_of_other_keys_leaves_it_alone(keys: tuple[bytes, ...]) -> None:
    at = halted()
    at.settled()
    at.feed(act.Release(7, "retry", keys))
    assert at.jobs() == []
    assert at.of(act.Released) == [act.Released(7, 0)]


def test_messages_without_key_are_one_key() -> None:
    at = driver()
    [job] = at.deliver(record(0), record(1))
    fail(at, job)
    at.feed(act.Release(7, "drop", (None,)))
    assert at.started() == [1]


def test_a_halted_message_is_released_to_the_dead_letters() -> None:
    at = halted("halt_key", record(1, "a"))
    at.feed(act.Release(7, "dead_letter"))
    [copy] = at.copies()
    assert dict(copy.extra)["mq-dlq-reason"] == "exhausted"
    assert at.jobs() == []
    at.feed(act.CopyDone(copy.token, spi.Stored()))
    assert at.started() == [1]
    assert stored(at).watermark == 1


def test_a_halted_message_is_let_go() -> None:
    at = halted("halt_key", record(1, "a"))
    at.feed(act.Release(7, "drop"))
    assert at.started() == [1]
    assert len(at.reported(Dropped)) == 1


@pytest.mark.parametrize(("outcome", "copies", "started"), [("dead_letter", 1, []), ("drop", 0, [1]), ("retry", 0, [0, 1])])
def test_what_was_decided_is_carried_out_by_the_next_owner(outcome: act.ReleaseAs, copies: int, started: list[int]) -> None:
    """The copy is not stored yet, or nothing of the partition had been read, when the owner changes."""
    at = next_owner(halted())
    at.feed(act.Release(7, outcome))
    assert at.of(act.Released) == []
    third = next_owner(at, record(0, "a"), record(1, "a"))
    assert (len(third.copies()), len(third.reported(Dropped))) == (copies, outcome == "drop")
    assert third.started() == started


def test_a_release_is_answered_when_it_is_stored() -> None:
    at = halted()
    at.settled()
    at.feed(act.Release(7, "retry"))
    assert at.of(act.Released) == []
    at.settled("failed")
    assert at.of(act.Released) == []
    at.feed(after=1)
    at.settled()
    assert at.of(act.Released) == [act.Released(7, 1)]
    assert decode(at.settles()[-1].sparse, 0).halts == {}


def test_a_release_says_what_it_could_not_reach() -> None:
    old = halted()
    old.settled()
    old.feed(act.Release(7, "retry"), spi.Lost(spi.Partition("orders", 0), 1))
    assert old.of(act.Released) == [act.Released(7, 1, lost=1)]
    unread = next_owner(halted())
    unread.feed(act.Release(8, "retry", (b"a",)))
    assert unread.of(act.Released) == [act.Released(8, 0, left=1)]
    leaving = halted("halt_key", record(1, "b"))
    leaving.settled()
    leaving.feed(spi.Revoking(spi.Partition("orders", 0), 1, leaving.now + 10))
    leaving.feed(act.Release(9, "retry"))
    assert leaving.of(act.Released) == [act.Released(9, 0, left=1)]


def test_a_halted_partition_starts_nothing_more() -> None:
    at = driver("halt_partition")
    [job] = at.deliver(record(0, "a"), record(1, "b"), record(2, "c"))
    at.feed(spi.Assigned(P1, 1, 0))
    at.finish(job, (job.records[0], failure()), skipped=job.records[1:])
    assert (at.jobs(), at.of(act.Recall)) == ([], [act.Recall()])
    assert at.deliver(record(3, "d")) == []
    assert at.of(act.Credit)[-1:] in ([], [act.Credit(spi.Partition("orders", 0), 0, 0)])
    assert [one.records[0].position for one in at.deliver(record(0, "e"), partition=P1)] == [0]
    assert at.reported(Halted)[0].scope == "partition"
    assert at.machine.view().records == 1  # what waits in the halted partition takes nothing from the limits of the others


def test_what_a_worker_hands_back_of_a_halted_partition_waits_too() -> None:
    tuning = replace(policy("halt_partition"), concurrency=2)
    at = driver("halt_partition", tuning=tuning)
    first, *others = at.deliver(*(record(one, f"k{one}") for one in range(4)))
    fail(at, first)
    at.feed(*(act.Finished(job, (), job.records) for job in others))
    assert (at.jobs(), at.machine.view().records) == ([], 0)
    at.feed(act.Release(7, "drop"))
    assert sorted(at.started()) == [1, 2, 3]


def test_the_next_owner_of_a_halted_partition_reads_no_further_than_what_is_halted() -> None:
    at = next_owner(halted("halt_partition"), halt="halt_partition")
    assert at.of(act.Credit)[0].records > 0
    at.deliver(record(0, "a"), record(1, "b"), epoch=2)
    assert at.jobs() == []
    assert at.of(act.Credit)[-1].records == 0
    at.feed(act.Release(7, "retry"))
    assert at.started() == [0, 1]


def test_an_unordered_consumer_may_halt_a_partition() -> None:
    at = halted("halt_partition", record(1, "a"), ordered=False)
    assert at.jobs() == []
    at.feed(act.Release(7, "dead_letter"))
    assert at.started() == [1]


def test_what_waits_for_a_person_does_not_age_and_what_waits_for_a_retry_does() -> None:
    at = halted("halt_key", record(1, "a"))
    at.feed(after=100_000)
    assert at.reported(SpanExceeded) == []
    at.feed(act.Retuned(policy(attempts=9)), act.Release(7, "retry"))
    fail(at, at.jobs()[0])
    at.feed(after=0.5)
    assert at.machine.due() is not None
    late = act.Tuning(concurrency=1, retry=RetryPolicy(9, Backoff(2000, max=2000, jitter=0.0), "halt_key"))
    at.feed(act.Retuned(late), after=600)
    fail(at, at.jobs()[0])
    at.feed(after=601)
    assert len(at.reported(SpanExceeded)) == 1


def test_what_waits_behind_a_halted_key_counts_to_the_span() -> None:
    at = halted("halt_key", tuning=replace(policy(), span_records=3))
    at.deliver(*(record(one, "a") for one in range(1, 5)))
    assert len(at.reported(SpanExceeded)) == 1
    assert at.machine.view().partitions[0].paused


def test_a_consumer_that_waits_for_a_person_is_not_stalled() -> None:
    at = halted("halt_partition", record(1, "b"))
    at.feed(after=1000)
    at.feed(after=1000)
    assert at.reported(Stalled) == []


def test_the_halt_that_would_be_one_too_many_to_remember_stops_the_partition() -> None:
    at = driver(sparse_bytes=512)
    most = halts_that_fit(512)
    assert most == 16
    for position in range(most + 1):
        for job in at.deliver(record(position, f"key {position}")):
            fail(at, job)
    scopes = [event.scope for event in at.reported(Halted)]
    assert scopes == ["key"] * (most - 1) + ["partition"]
    assert len(decode(stored(at).sparse, 0).halts) == most


def test_however_many_fail_at_once_a_partition_that_could_not_remember_all_stays_stopped() -> None:
    at = driver(sparse_bytes=512, batch=200)
    [job] = at.deliver(*(record(one * 50, f"key {one}") for one in range(200)))
    at.finish(job, *((one, failure()) for one in job.records))
    saved = decode(stored(at).sparse, 0).halts
    assert len(saved) < 200
    assert PARTITION in saved.values()
    assert next_owner(at, record(0, "key 0"), record(1, "other"), sparse_bytes=512).jobs() == []


def test_a_halted_message_is_not_blamed_for_the_end_of_its_process() -> None:
    at = next_owner(halted(), record(0, "a"), record(1, "b"), clean=False)
    suspicion = decode(at.settles()[-1].sparse, 0).suspicion
    assert suspicion is not None
    assert suspicion.crashes == {}


def test_a_halt_does_not_keep_its_partition_under_suspicion() -> None:
    at = next_owner(halted(), clean=False)
    at.settled()
    at.deliver(*(record(one, "a" if one % 2 == 0 else f"k{one}") for one in range(1002)), epoch=2)
    while at.machine.view().records:
        stored(at)
        at.feed(*(act.Finished(job) for job in at.jobs()))
    assert [job.records[0].position for job in at.deliver(record(1003, "z"), epoch=2)] == [1003]  # at once, not after it was written down


def test_of_a_batch_that_fails_as_a_whole_the_first_of_a_key_halts_and_the_others_wait_behind_it() -> None:
    at = driver(batch=10)
    [job] = at.deliver(record(0, "a"), record(1, "a"), record(2, "b"))
    at.finish(job, *((one, failure()) for one in job.records))
    assert [event.position for event in at.reported(Halted)] == [0, 2]
    assert at.machine.view().records == 0
    at.feed(act.Release(7, "drop", (b"a",)))
    assert [event.position for event in at.reported(Halted)] == [0, 2, 1]


@pytest.mark.parametrize(
    ("halt", "spec"),
    [("halt_key", {"sparse_bytes": 0}), ("halt_partition", {"sparse_bytes": 511}), ("halt_key", {"ordered": False})],
)
def test_a_machine_that_cannot_keep_a_halt_refuses_it(halt: OnExhausted, spec: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"ordered": True, "sparse_bytes": 4096} | spec
    whole = act.Spec("orders", "g", "c", **fields)
    with pytest.raises(ValueError, match=halt):
        Machine(whole, policy(halt), Random(0))
    machine = Machine(whole, act.Tuning(), Random(0))
    with pytest.raises(ValueError, match=halt):
        machine.feed(0.0, [act.Retuned(policy(halt))])
