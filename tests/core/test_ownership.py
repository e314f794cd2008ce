"""One partition from its assignment to its end, and what an old ownership may still do: nothing."""

from __future__ import annotations

from mqsdk.core import actions as act
from mqsdk.core.sparse import encode
from mqsdk.events import GapSeen
from mqsdk.spi import events as spi
from tests.core.driving import P0, Driver, failure, record


def test_what_an_earlier_owner_settled_is_skipped() -> None:
    driver = Driver(assign=False)
    driver.assign(position=5, sparse=encode(5, [(6, 8), (9, 10)], {}, 1000))
    [job] = driver.deliver(*[record(position) for position in range(5, 12)])
    assert [one.position for one in job.records] == [5, 8, 10, 11]
    driver.finish(job)
    assert driver.settles()[-1].watermark == 12


def test_positions_that_never_come_do_not_hold_the_watermark() -> None:
    driver = Driver()
    [job] = driver.deliver(record(3), record(7))
    driver.settled()
    driver.finish(job)
    assert driver.settles()[-1].watermark == 8
    assert [progress.done for progress in driver.settles()] == [((0, 3), (4, 7)), ((3, 4), (7, 8))]


def test_repeated_deliveries_of_one_ownership_run_once() -> None:
    driver = Driver()
    driver.deliver(record(0), record(1))
    assert [one.position for job in driver.deliver(record(0), record(1), record(2)) for one in job.records] == [2]
    assert driver.machine.view().redelivered == 2


def test_a_gap_is_settled_and_reported() -> None:
    driver = Driver()
    driver.deliver(record(0))
    driver.feed(spi.Gap(P0, 1, 1, 10, "retention"))
    assert driver.reported(GapSeen) == [GapSeen("orders", "billing", "main", 0, 1, 10, "retention")]
    assert driver.machine.view().gap == 9
    [job] = driver.deliver(record(10))
    driver.finish(job)
    assert driver.machine.view().partitions[0].watermark == 0


def test_a_gap_over_restored_positions_counts_only_what_is_lost() -> None:
    driver = Driver(assign=False)
    driver.assign(sparse=encode(0, [(2, 4)], {}, 1000))
    driver.feed(spi.Gap(P0, 1, 0, 6, "retention"))
    assert driver.machine.view().gap == 4
    assert driver.settles()[-1].watermark == 6


def test_a_message_that_failed_before_and_is_gone_now_is_forgotten() -> None:
    """Found by the simulation: its count stayed below the watermark, and the next blob could not be encoded."""
    driver = Driver(assign=False, sparse_bytes=1000)
    driver.assign(position=5, sparse=encode(5, [], {5: 2}, 1000))
    driver.feed(spi.Gap(P0, 1, 5, 8, "retention"))
    assert (driver.settles()[-1].watermark, driver.settles()[-1].sparse) == (8, b"")


def test_revoking_starts_nothing_waits_for_what_runs_and_settles_finally() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"), record(1, "b"))
    driver.deliver(record(2, "a"))
    driver.feed(spi.Revoking(P0, 1, driver.now + 10))
    assert driver.of(act.Fence) == [act.Fence(P0, 1, cancel=False)]
    assert driver.of(act.Settle) == []
    driver.finish(job, skipped=[job.records[1]])
    assert driver.jobs() == []
    final = driver.settles()[-1]
    assert (final.final, final.watermark) == (True, 1)
    assert driver.machine.view().partitions == ()


def test_revoking_ends_before_its_deadline_and_late_results_are_discarded() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    deadline = driver.now + 10
    driver.feed(spi.Revoking(P0, 1, deadline))
    due = driver.machine.due()
    assert due is not None
    assert deadline - 0.1 <= due < deadline
    driver.feed(after=due - driver.now)
    assert driver.of(act.Fence) == [act.Fence(P0, 1, cancel=True)]
    assert [(progress.final, progress.watermark) for progress in driver.settles()] == [(True, 0)]
    driver.finish(job)
    assert driver.actions == []
    assert (driver.machine.view().handled, driver.machine.view().orphaned) == (0, 1)


def test_failed_attempts_of_a_revoked_partition_are_handed_over() -> None:
    driver = Driver(sparse_bytes=1000)
    [job] = driver.deliver(record(0))
    driver.feed(spi.Revoking(P0, 1, driver.now + 10))
    driver.finish(job, (job.records[0], failure()))
    other = Driver(assign=False)
    other.assign(sparse=driver.settles()[-1].sparse)
    other.deliver(record(0))
    other.feed(after=1)
    assert other.jobs()[0].attempt == 2


def test_lost_drops_everything_at_once_and_settles_nothing() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0), record(1))
    driver.feed(spi.Lost(P0, 1))
    assert driver.actions == [act.Fence(P0, 1, cancel=True)]
    driver.finish(job, (job.records[0], failure()))
    assert driver.actions == []
    assert driver.machine.due() is None
    view = driver.machine.view()
    assert (view.records, view.bytes, view.waiting, view.orphaned) == (0, 0, 0, 2)


def test_a_waiting_retry_does_not_survive_the_loss_of_its_partition() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.finish(job, (job.records[0], failure()))
    driver.feed(spi.Lost(P0, 1))
    driver.feed(after=100)
    assert driver.jobs() == []


def test_a_key_waits_for_its_handler_of_an_earlier_ownership() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"))
    driver.feed(spi.Lost(P0, 1), spi.Assigned(P0, 2, 0))
    driver.deliver(record(0, "a"), record(1, "b"), epoch=2)
    assert driver.started() == [1]
    driver.finish(job)
    assert driver.started() == [0]


def test_records_taken_back_from_an_orphan_free_their_keys() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "a"), record(1, "b"))
    driver.feed(spi.Lost(P0, 1), spi.Assigned(P0, 2, 0))
    assert driver.deliver(record(0, "a"), record(1, "b"), epoch=2) == []
    driver.feed(act.Returned(job, [job.records[1]]))
    assert driver.started() == [1]


def test_events_of_an_old_epoch_change_nothing() -> None:
    driver = Driver()
    driver.feed(spi.Lost(P0, 1), spi.Assigned(P0, 2, 0))
    stale = [spi.Gap(P0, 1, 0, 9, "retention"), spi.Revoking(P0, 1, driver.now), spi.Lost(P0, 1), spi.Settled(P0, 1, 1, "stale")]
    assert driver.feed(driver.batch(record(0)), *stale) == []
    [job] = driver.deliver(record(0), epoch=2)
    assert job.origin.epoch == 2


def test_a_newer_epoch_replaces_an_ownership_that_was_never_lost() -> None:
    driver = Driver()
    driver.deliver(record(0))
    driver.feed(spi.Assigned(P0, 2, 0))
    assert driver.of(act.Fence) == [act.Fence(P0, 1, cancel=True)]
    driver.feed(spi.Assigned(P0, 1, 0))
    assert driver.machine.view().partitions[0].epoch == 2


def test_nothing_starts_after_the_ownership_was_valid() -> None:
    """Workers would refuse and hand back at once, for ever."""
    driver = Driver(assign=False)
    driver.assign(valid_until=driver.now + 1)
    driver.feed(after=2)
    assert driver.deliver(record(0)) == []
    driver.feed(spi.Renewed(driver.now + 10))
    assert driver.started() == [0]


def test_returned_records_start_elsewhere_but_not_beside_their_own_key() -> None:
    driver = Driver(ordered=True)
    [job] = driver.deliver(record(0, "x"), record(1, "a"), record(2, "b"), record(3, "a"))
    assert [one.position for one in job.records] == [0, 1, 3, 2]
    x, _, later, b = job.records
    driver.feed(act.Returned(job, [later, b], handled=[x]))
    assert driver.started() == [2]
    assert driver.settles()[-1].watermark == 1
    driver.finish(driver.jobs()[0])
    driver.deliver(record(4, "x"))
    assert driver.started() == [4]
    driver.finish(job)
    assert driver.started() == [3]
    assert driver.machine.view().handled == 3


def test_results_of_jobs_that_are_not_known_change_nothing() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0))
    driver.finish(job)
    handled = driver.machine.view()
    again = [act.Finished(job), act.Returned(job, job.records), act.Overdue(job, job.records[0], 9.0, True), act.CopyDone(99, spi.Stored())]
    assert driver.feed(*again) == []
    assert driver.machine.view() == handled


def test_an_empty_batch_is_nothing() -> None:
    driver = Driver()
    assert driver.feed(driver.batch()) == []


def test_a_result_for_a_record_that_was_taken_back_is_ignored() -> None:
    driver = Driver()
    [job] = driver.deliver(record(0), record(1))
    driver.feed(act.Returned(job, [job.records[1]]))
    driver.finish(job, (job.records[1], failure()))
    assert driver.machine.view().failed == 0
    assert driver.machine.view().handled == 1
