"""Bugs of such layers, each switched on by monkeypatching: the simulations must find them.

A patch is made for one test and taken back after it. What the gate of the guarantees calls M1 to M26 is listed in `gate.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core import lanes, partition, sparse, starting
from mqsdk.core.attempts import Attempt
from mqsdk.core.breaker import Breaker
from mqsdk.core.credit import Account, Credits
from mqsdk.core.exclusion import Exclusion
from mqsdk.core.failing import Failing
from mqsdk.core.following import Following
from mqsdk.core.halting import Halting
from mqsdk.core.limits import Limits
from mqsdk.core.machine import Machine
from mqsdk.core.outcomes import Outcomes
from mqsdk.core.parking import Parking
from mqsdk.core.partition import Ownership
from mqsdk.core.rate import Bucket
from mqsdk.core.retry import Backoff
from mqsdk.core.watermark import Watermark
from mqsdk.spi import events as spi


def commit_the_highest_position(patch: pytest.MonkeyPatch) -> None:
    original = Ownership.progress

    def progress(self: Ownership, *rest: Any) -> spi.Progress:
        return original(self, *rest)._replace(watermark=self.watermark.high)

    patch.setattr(Ownership, "progress", progress)


def no_lanes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(partition, "Lanes", lanes.Fifo)


def retry_behind_later_messages(patch: pytest.MonkeyPatch) -> None:
    original = Failing._retry_due

    def retry_due(self: Failing, now: float, ownership: Ownership, record: spi.Record) -> None:
        if isinstance(ownership.queue, lanes.Lanes) and not ownership.fenced:
            ownership.queue._wait(record)
            ownership.queue.end([record])
            self.take_due(now, ownership)
            self._changed(now, ownership)
        else:
            original(self, now, ownership, record)

    patch.setattr(Failing, "_retry_due", retry_due)


def skipped_records_go_to_the_end_of_their_lane(patch: pytest.MonkeyPatch) -> None:
    def back(self: lanes.Lanes, records: list[spi.Record]) -> None:
        for record in records:
            self._wait(record)
        self.end(records)

    patch.setattr(lanes.Lanes, "back", back)


def results_of_an_old_epoch_count(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes.finished

    def finished(self: Outcomes, now: float, event: act.Finished) -> None:
        run, current = self._starter.find(event.job), self._owned.get(event.job.partition)
        if run is not None and run.ownership.gone and current is not None:
            run.ownership = current
            current.running += 1
        original(self, now, event)

    patch.setattr(Outcomes, "finished", finished)


def batches_of_an_old_epoch_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_current", lambda self, partition, _: self._owned.get(partition))


def settle_before_the_copy_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    original = Failing._copy

    def copy(self: Failing, copying: Any) -> None:
        original(self, copying)
        self.copied(0.0, act.CopyDone(max(self._copies), spi.Stored(0)))

    patch.setattr(Failing, "_copy", copy)


def in_flight_leaks_on_revoke(patch: pytest.MonkeyPatch) -> None:
    original = Credits.open

    def open_account(self: Credits, partition: spi.Partition) -> Account:
        old = self._accounts.get(partition)
        account = original(self, partition)
        account.records = old.records if old is not None else 0
        return account

    patch.setattr(Credits, "close", lambda self, partition: None)
    patch.setattr(Credits, "open", open_account)


def failed_records_stay_in_flight(patch: pytest.MonkeyPatch) -> None:
    original = Ownership.end

    def end(self: Ownership, records: list[spi.Record]) -> None:
        leaked = sum(1 for record in records if record.position in self.attempts)
        original(self, records)
        self.account.records += leaked

    patch.setattr(Ownership, "end", end)


def the_restored_set_is_shifted(patch: pytest.MonkeyPatch) -> None:
    original = sparse.decode

    def decode(blob: bytes, watermark: int) -> sparse.Saved:
        saved = original(blob, watermark)
        return saved._replace(ranges=tuple((start + 1, stop + 1) for start, stop in saved.ranges))

    patch.setattr(sparse, "decode", decode)


def the_restored_set_is_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sparse, "decode", lambda blob, watermark: sparse.Saved())


def keys_of_running_handlers_are_free_after_a_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(starting.Starter, "hold_orphans", lambda self, ownership: None)
    patch.setattr(Outcomes, "_free_orphans", lambda self, now, run, records: None)


def a_drain_starts_what_is_queued(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_apply_pause", lambda self: None)
    patch.setattr(Machine, "_hand_back", lambda self, now, ownership, deadline: None)


def paused_for_ever(patch: pytest.MonkeyPatch) -> None:
    original = Machine._apply_pause

    def apply_pause(self: Machine) -> None:
        closed = [ownership.account for ownership in self._owned.values() if not ownership.account.is_open]
        original(self)
        for account in closed:
            account.is_open = False

    patch.setattr(Machine, "_apply_pause", apply_pause)


def a_revoke_settles_what_still_runs(patch: pytest.MonkeyPatch) -> None:
    original = Machine._leave

    def leave(self: Machine, now: float, ownership: Ownership) -> None:
        for job in self._starter.of(ownership.partition):
            if job.ownership is ownership:
                ownership.end(job.records)
        original(self, now, ownership)

    patch.setattr(Machine, "_leave", leave)


def returned_records_count_as_handled(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes.returned
    patch.setattr(
        Outcomes, "returned", lambda self, now, event: original(self, now, act.Returned(event.job, (), [*event.handled, *event.records]))
    )


def failed_attempts_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "fail", lambda self, now, number, error, place: None)


def retries_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backoff, "delay_s", lambda self, attempt, jitter: 0.0)


def the_watermark_runs_over_what_was_not_received(patch: pytest.MonkeyPatch) -> None:
    original = Watermark.add
    patch.setattr(Watermark, "add", lambda self, start, stop: original(self, min(start, self.low), stop))


def a_gap_is_an_empty_poll(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_gap", lambda self, now, event: None)


def keys_of_the_retry_topic_run_beside_those_of_the_topic(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exclusion, "_show", lambda self, partition: None)


def what_was_set_aside_for_its_twin_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exclusion, "_resume", lambda self, partition, key: None)


def handlers_that_outlive_their_ownership_do_not_hold_their_twin(patch: pytest.MonkeyPatch) -> None:
    original = Exclusion.owned

    def owned(self: Exclusion, ownership: Ownership, running: Any) -> None:
        self._keys.pop(ownership.partition, None)
        original(self, ownership, [run for run in running if not run.ownership.gone])

    patch.setattr(Exclusion, "owned", owned)
    patch.setattr(Exclusion, "ended", lenient(Exclusion.ended))


def lenient(ended: Any) -> Any:
    def wrapper(self: Exclusion, partition: spi.Partition, records: list[spi.Record]) -> None:
        known = self._keys.get(partition, {})
        ended(self, partition, [record for record in records if record.key in known])

    return wrapper


def retries_are_free(patch: pytest.MonkeyPatch) -> None:
    original = Limits.started

    def started(self: Limits, now: float, job: act.Job) -> None:
        original(self, now, job)
        if self._bucket is not None and job.attempt > 1:
            self._bucket.give_back(len(job.records))

    patch.setattr(Limits, "started", started)


def a_batch_counts_as_one_message(patch: pytest.MonkeyPatch) -> None:
    original = Bucket.take
    patch.setattr(Bucket, "take", lambda self, now, count: original(self, now, min(count, 1)))


def an_idle_time_is_kept_without_bound(patch: pytest.MonkeyPatch) -> None:
    def take(self: Bucket, now: float, count: int) -> None:
        self._full_at = max(self._full_at, 0.0) + count * self._gap_s

    patch.setattr(Bucket, "take", take)
    patch.setattr(Bucket, "available", lambda self, now: int(self.burst + (now - max(self._full_at, 0.0)) / self._gap_s))


def nobody_wakes_for_the_next_token(patch: pytest.MonkeyPatch) -> None:
    original = Limits.admits

    def admits(self: Limits, now: float) -> bool:
        is_admitted = original(self, now)
        self.until = None
        return is_admitted

    patch.setattr(Limits, "admits", admits)


def an_open_breaker_lets_the_queue_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Breaker, "moment", lambda self: 0.0)


def an_open_breaker_takes_nothing_back(patch: pytest.MonkeyPatch) -> None:
    original = Machine._recall

    def recall(self: Machine, now: float) -> None:
        original(self, now)
        self._desk.actions[:] = [action for action in self._desk.actions if not isinstance(action, act.Recall)]

    patch.setattr(Machine, "_recall", recall)


def a_probe_that_says_nothing_is_waited_for_without_end(patch: pytest.MonkeyPatch) -> None:
    original = Breaker.ended

    def ended(self: Breaker, now: float, token: int, attempts: int, failed: int) -> bool:
        return attempts > 0 and original(self, now, token, attempts, failed)

    patch.setattr(Breaker, "ended", ended)


def a_halted_message_is_settled(patch: pytest.MonkeyPatch) -> None:
    original = Halting.hold

    def hold(self: Halting, now: float, ownership: Ownership, record: spi.Record, kind: int) -> None:
        original(self, now, ownership, record, kind)
        ownership.mark(record.position, record.position + 1)

    patch.setattr(Halting, "hold", hold)


def halts_are_forgotten_at_a_change_of_owner(patch: pytest.MonkeyPatch) -> None:
    original = sparse.decode
    patch.setattr(sparse, "decode", lambda blob, watermark: original(blob, watermark)._replace(halts={}))


def a_later_message_of_a_halted_key_starts(patch: pytest.MonkeyPatch) -> None:
    original = Halting.hold

    def hold(self: Halting, now: float, ownership: Ownership, record: spi.Record, kind: int) -> None:
        original(self, now, ownership, record, kind)
        ownership.queue.end([record])

    patch.setattr(Halting, "hold", hold)


def a_halted_partition_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ownership, "may_start", lambda self, now: not self.fenced and now < self.valid_until)


def what_a_halted_partition_had_given_out_is_left_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Halting, "has_stopped", property(lambda self: False, lambda self, value: None), raising=False)


def a_release_leaves_its_partition_stopped(patch: pytest.MonkeyPatch) -> None:
    original = Parking.release

    def release(self: Parking, position: int, kind: int, now: float) -> spi.Record | None:
        was_stopped = self.is_stopped
        record = original(self, position, kind, now)
        self.is_stopped = was_stopped
        return record

    patch.setattr(Parking, "release", release)


def a_release_is_forgotten_before_it_has_ended_its_message(patch: pytest.MonkeyPatch) -> None:
    original = Parking.release
    patch.setattr(Parking, "release", lambda self, position, kind, now: original(self, position, 0, now))


def a_partition_starts_before_its_letters_are_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Following, "owned", lambda self, now, ownership: None)


def a_reading_that_began_before_the_partition_came_will_do(patch: pytest.MonkeyPatch) -> None:
    original = Following.read
    patch.setattr(Following, "read", lambda self, now, event: original(self, now, event._replace(asked_at=now)))


def what_waits_behind_a_dead_letter_does_not_follow_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Following, "stored", lambda self, now, ownership, record: None)
