"""After an owner that did not hand back: what starts is written down first, blamed for an end, run alone, dead-lettered at last."""

from __future__ import annotations

from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core import sparse
from mqsdk.core.retry import RetryPolicy
from mqsdk.events import DeadLettered, Dropped
from mqsdk.spi import events as spi
from tests.core.driving import P0, POLICY, Driver, failure, record

SPARSE = 4096
MANY_WORKERS = act.Tuning(concurrency=8, retry=POLICY)


class Owner(Driver):
    """An owner of partition 0 that may end without handing back; `then` is the next one."""

    def __init__(self, *, after: Owner | None = None, clean: bool = False, end: int | None = None, **spec: Any) -> None:
        self.spec = spec
        last = after.settles()[-1] if after is not None and after.settles() else None
        self.position = 0 if last is None else last.watermark
        super().__init__(assign=False, sparse_bytes=SPARSE, **spec)
        self.feed(spi.Assigned(P0, 1, self.position, b"" if last is None else last.sparse, clean=clean, end=end))

    def then(self, **fields: Any) -> Owner:
        return Owner(after=self, **{**self.spec, **fields})

    def answered(self) -> list[int]:
        """Answer settles until no more follows at once; the positions that started by it."""
        begun: list[int] = []
        before = 0
        while len(self.settles()) > before:
            before = len(self.settles())
            self.settled()
            begun += self.started()
        return begun

    def job(self, position: int) -> act.Job:
        """The last job that ran with this position."""
        jobs = [action.job for action in self.log if isinstance(action, act.Run)]
        return next(job for job in reversed(jobs) if position in {one.position for one in job.records})

    def saved(self) -> sparse.Suspicion:
        last = self.settles()[-1]
        found = sparse.decode(last.sparse, last.watermark).suspicion
        assert found is not None
        return found


def ended_by(position: int, times: int, **spec: Any) -> Owner:
    """The owner after `times` owners whose process was ended by the message at `position`, run beside those before it."""
    owner = Owner(ordered=True, **spec)  # the first end was not seen ahead: position 0 is blamed
    for _ in range(times - 1):
        owner.answered()
        owner.deliver(*[record(one, key=str(one)) for one in range(owner.position, position + 1)])
        owner.answered()
        owner = owner.then()
    return owner


def test_after_a_hand_back_jobs_start_at_once() -> None:
    owner = Owner(clean=True)
    assert [job.records[0].position for job in owner.deliver(record(0))] == [0]
    assert owner.settles() == []


def test_after_a_crash_nothing_starts_before_it_is_written_down() -> None:
    owner = Owner()
    owner.answered()
    assert owner.deliver(record(0), record(1)) == []
    assert owner.saved().started == ((0, 2),)
    assert owner.answered() == [0, 1]


def test_a_settle_that_fails_starts_nothing_and_is_repeated() -> None:
    owner = Owner()
    owner.answered()
    owner.deliver(record(0))
    owner.settled("failed")
    assert owner.started() == []
    owner.feed(after=0.2)
    assert owner.saved().started == ((0, 1),)
    assert owner.answered() == [0]


def test_what_ended_is_started_no_more() -> None:
    owner = Owner(tuning=MANY_WORKERS)
    owner.answered()
    owner.deliver(*[record(position) for position in range(4)])
    owner.answered()
    owner.finish(owner.job(0))
    owner.feed(after=1.0)
    assert owner.saved().started == ((1, 4),)
    assert owner.settles()[-1].watermark == 1


def test_the_suspicion_ends_when_all_is_settled_that_may_have_been_handed_out() -> None:
    owner = Owner(end=2)
    owner.deliver(record(0), record(1))
    owner.answered()
    owner.finish(owner.job(0))
    owner.finish(owner.job(1))
    assert [one.records[0].position for one in owner.deliver(record(2))] == [2]


def test_an_owner_of_an_empty_partition_suspects_nothing() -> None:
    owner = Owner(end=0)
    assert [job.records[0].position for job in owner.deliver(record(0))] == [0]


def test_without_room_beside_the_watermark_nothing_is_suspected() -> None:
    driver = Driver(assign=False)
    driver.feed(spi.Assigned(P0, 1, 0, clean=False))
    assert [job.records[0].position for job in driver.deliver(record(0))] == [0]


def test_the_message_that_ends_every_process_runs_alone_and_then_is_a_dead_letter() -> None:
    owner = ended_by(0, 3)
    assert owner.saved().crashes == {0: 3}
    owner.answered()
    owner.deliver(record(0, key="bad"), record(1, key="good"))
    assert owner.answered() == [0]  # nothing beside it
    assert owner.deliver(record(2, key="late")) == []
    assert owner.answered() == []
    owner = owner.then()
    assert owner.saved().crashes == {0: 4}
    owner.answered()
    owner.deliver(record(0, key="bad"))
    (copy,) = owner.copies()
    assert dict(copy.extra)["mq-dlq-reason"] == "crash_loop"
    owner.feed(act.CopyDone(copy.token, spi.Stored(1)))
    (event,) = owner.reported(DeadLettered)
    assert event.reason == "crash_loop"


def test_a_message_that_only_ran_beside_it_is_cleared_by_running_alone() -> None:
    owner = ended_by(1, 3)
    assert owner.saved().crashes == {0: 3, 1: 2}
    owner.answered()
    owner.deliver(record(0, key="good"), record(1, key="bad"))
    assert owner.answered() == [0]
    owner.finish(owner.job(0))
    assert owner.answered() == [1]
    owner = owner.then()
    assert owner.saved().crashes == {1: 3}


def test_a_suspect_waits_until_nothing_else_runs() -> None:
    other = spi.Partition("orders", 1)
    owner = Owner(ordered=True, tuning=MANY_WORKERS)
    owner.feed(spi.Assigned(other, 1, 0))
    (busy,) = owner.deliver(record(0, key="busy"), partition=other)
    owner.feed(spi.Assigned(P0, 2, 0, blamed(0, 3), clean=True))
    assert owner.deliver(record(0, key="bad"), epoch=2) == []
    assert owner.deliver(record(1, key="more"), partition=other) == []  # it would never find the moment otherwise
    owner.finish(busy)
    assert owner.started() == [0]
    owner.finish(owner.job(0))
    assert owner.started() == []  # if this one ended the process, the other would be blamed once more
    assert owner.answered() == [1]


def test_nothing_starts_before_the_end_of_what_ran_alone_is_stored() -> None:
    """Of two messages that ran alone after three crashes, the good one became a dead letter when the other ended the process at once."""
    other = spi.Partition("orders", 1)
    owner = Owner(ordered=True, tuning=MANY_WORKERS)
    owner.feed(spi.Assigned(other, 1, 0, blamed(0, 3), clean=True))
    owner.feed(spi.Assigned(P0, 2, 0, blamed(0, 3), clean=True))
    (good,) = owner.deliver(record(0, key="good"), epoch=2)
    assert owner.deliver(record(0, key="bad"), partition=other) == []
    owner.finish(good)
    assert owner.started() == []
    saved = owner.settles()[-1]
    assert (saved.partition, saved.watermark) == (P0, 1)
    owner.settled()
    assert [job.partition for job in owner.jobs()] == [other]


def blamed(position: int, crashes: int) -> bytes:
    return sparse.encode(0, (), {}, SPARSE, sparse.Suspicion(0, {position: crashes}))


def test_a_process_that_ends_before_it_starts_anything_blames_nobody_twice() -> None:
    owner = Owner()
    for _ in range(6):
        owner.answered()
        owner = owner.then()
    assert owner.saved().crashes == {0: 1}


def test_an_owner_that_ends_in_order_with_handlers_cut_short_is_not_blamed() -> None:
    owner = Owner()
    owner.deliver(record(0))
    owner.answered()
    owner.feed(act.Drain(owner.now + 1.0))
    owner.feed(after=2.0)
    assert owner.saved().in_order
    assert owner.then().saved().crashes == {0: 1}  # as before: one for the end that made it suspicious


def test_used_up_by_crashes_means_dropped_where_the_policy_drops() -> None:
    tuning = act.Tuning(retry=RetryPolicy(on_exhausted="drop"))
    owner = ended_by(0, 4, tuning=tuning)
    owner.answered()
    owner.deliver(record(0))
    assert owner.copies() == []
    (event,) = owner.reported(Dropped)
    assert "ended 4 times" in event.error


def test_failed_attempts_and_crashes_are_counted_apart() -> None:
    owner = Owner(ordered=True)
    owner.deliver(record(0))
    owner.answered()
    job = owner.job(0)
    owner.finish(job, (job.records[0], failure()))
    owner.answered()
    owner = owner.then()
    owner.answered()
    owner.deliver(record(0))
    owner.feed(after=1.5)
    owner.answered()
    assert [action.job.attempt for action in owner.log if isinstance(action, act.Run)] == [2]


@pytest.mark.parametrize("end", ["revoked", "lost", "drained"])
def test_a_job_that_waits_to_be_written_down_is_withdrawn_with_its_partition(end: str) -> None:
    owner = Owner()
    owner.answered()
    owner.deliver(record(0, key="k"))
    last = owner.settles()[-1]
    if end == "revoked":
        owner.feed(spi.Revoking(P0, 1, owner.now + 5.0))
    elif end == "lost":
        owner.feed(spi.Lost(P0, 1))
    else:
        owner.feed(act.Drain(owner.now + 5.0))
    owner.feed(spi.Settled(P0, 1, last.token, "stored"))
    assert not [action for action in owner.log if isinstance(action, act.Run)]
    assert end == "lost" or owner.settles()[-1].final


def test_what_an_owner_may_have_been_handed_is_marked_redelivered() -> None:
    owner = Owner(end=2)
    records = [record(position) for position in range(4)]
    owner.deliver(*records)
    assert [one.redelivered for one in records] == [True, True, False, False]
    clean = Owner(clean=True)
    first = record(0)
    clean.deliver(first)
    assert not first.redelivered


def test_many_at_once_are_written_down_together() -> None:
    owner = Owner(tuning=MANY_WORKERS)
    owner.answered()
    before = len(owner.settles())
    owner.deliver(*[record(position) for position in range(40)])
    assert len(owner.settles()) == before + 1
    assert sorted(owner.answered()) == list(range(38))  # 16 jobs are out
