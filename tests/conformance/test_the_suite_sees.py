"""Mutants of the in-memory log: each breaks one promise of the seam, and the scenario named for it must fail.

That the same scenarios pass without a mutant is what `test_memory.py` shows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from mqsdk.spi import Assigned, Batch, NewRecord, Partition, Published, Record, Rejected, Settled, Stored
from mqsdk.testing import simconsumer, simlog, simstore
from mqsdk.testing.conformance import delay, delivery
from mqsdk.testing.simadmin import SimAdmin
from mqsdk.testing.simconsumer import SimConsumer
from mqsdk.testing.simdelay import Delayed
from mqsdk.testing.simgroup import Cursor, Group, Log
from mqsdk.testing.simlog import SimBackend, SimProducer
from mqsdk.testing.simstore import SimLog
from tests.conformance.test_memory import TestMemory as Memory

Mutate = Callable[[pytest.MonkeyPatch], None]


def _settle_of_any_epoch(patch: pytest.MonkeyPatch) -> None:
    def settle(self: SimConsumer, progress: Any) -> Settled:
        self._owned[progress.partition].cursor.settle(progress.watermark, progress.done, progress.high, progress.sparse)
        return Settled(progress.partition, progress.epoch, progress.token, "stored")

    patch.setattr(SimConsumer, "_settle", settle)


def _settle_is_only_pretended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "settle", lambda self, watermark, done, high, sparse: None)


def _watermark_may_fall(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "settle", lambda self, watermark, done, high, sparse: setattr(self, "watermark", watermark))


def _highest_counts_as_watermark(patch: pytest.MonkeyPatch) -> None:
    real = Cursor.settle
    patch.setattr(Cursor, "settle", lambda self, watermark, done, high, sparse: real(self, high, done, high, sparse))


def _blob_is_cut(patch: pytest.MonkeyPatch) -> None:
    real = Cursor.settle
    patch.setattr(Cursor, "settle", lambda self, watermark, done, high, sparse: real(self, watermark, done, high, sparse[:-1]))


def _epoch_stands_still(patch: pytest.MonkeyPatch) -> None:
    real = SimConsumer.gained

    def gained(self: SimConsumer, cursor: Cursor) -> None:
        cursor.epoch = 1
        real(self, cursor)

    patch.setattr(SimConsumer, "gained", gained)


def _always_clean(patch: pytest.MonkeyPatch) -> None:
    _map_events(patch, lambda event: event._replace(clean=True) if isinstance(event, Assigned) else event)


def _never_clean(patch: pytest.MonkeyPatch) -> None:
    _map_events(patch, lambda event: event._replace(clean=False) if isinstance(event, Assigned) else event)


def _batches_backwards(patch: pytest.MonkeyPatch) -> None:
    _map_events(patch, lambda event: event._replace(records=event.records[::-1]) if isinstance(event, Batch) else event)


def _records_twice(patch: pytest.MonkeyPatch) -> None:
    _map_events(patch, lambda event: event._replace(records=[*event.records, event.records[-1]]) if isinstance(event, Batch) else event)


def _wrong_size(patch: pytest.MonkeyPatch) -> None:
    _map_events(patch, lambda event: event._replace(bytes=event.bytes + 1) if isinstance(event, Batch) else event)


def _map_events(patch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    real = SimConsumer.poll
    patch.setattr(SimConsumer, "poll", lambda self, records, timeout: [change(event) for event in real(self, records, timeout)])


def _credit_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = SimConsumer.credit
    patch.setattr(SimConsumer, "credit", lambda self, partition, records, size: real(self, partition, 1000, 1 << 30))


def _credit_adds_up(patch: pytest.MonkeyPatch) -> None:
    def credit(self: SimConsumer, partition: Partition, records: int, bytes: int) -> None:
        self._owned[partition].records += records
        self._owned[partition].bytes += bytes

    patch.setattr(SimConsumer, "credit", credit)


def _limit_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = SimConsumer._collect
    patch.setattr(SimConsumer, "_collect", lambda self, max_records: real(self, 10 * max_records))


def _wake_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "LONG_POLL_S", 0.3)
    patch.setattr(SimConsumer, "wake", lambda self: None)


def _publish_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "LONG_POLL_S", 0.3)
    patch.setattr(SimLog, "nudge", lambda self, topics: None)


def _gaps_are_silent(patch: pytest.MonkeyPatch) -> None:
    def pass_over(cursor: Cursor, position: int) -> None:
        return None

    patch.setattr(simconsumer, "gap_of", pass_over)
    patch.setattr(Log, "take", lambda self, position, records, size: (self.read(max(position, self.base), records), 0))


def _close_keeps_the_partitions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Group, "leave", lambda self, member, now, handover_s, clean: None)


def _close_is_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimConsumer, "close", lambda self, deadline: self.vanish())


def _everybody_owns_everything(patch: pytest.MonkeyPatch) -> None:
    def assign(self: Group, members: Sequence[Any], quota: Any, keeping: Any) -> None:
        for member in members:
            for cursor in self.cursors:
                if cursor.partition not in member._owned:
                    cursor.epoch += 1
                    member.gained(cursor)

    patch.setattr(Group, "_assign_free", assign)


def _frozen_members_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimConsumer, "expired", lambda self, now: False)


def _leavers_get_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimConsumer, "leaving", property(lambda self: False, lambda self, value: None), raising=False)


def _groups_share_a_cursor(patch: pytest.MonkeyPatch) -> None:
    real = SimLog.create_group
    patch.setattr(SimLog, "create_group", lambda self, topic, name, start, **can: real(self, topic, "one", start, **can))


def _companions_are_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimConsumer, "_take_up", lambda self: None)


def _companions_go_their_own_way(patch: pytest.MonkeyPatch) -> None:
    def give_backwards(self: Group, leader: Group) -> None:
        for cursor, chief in zip(self.cursors, reversed(leader.cursors), strict=True):
            if cursor.owner is None and chief.owner is not None:
                self._give(cursor, chief.owner)

    patch.setattr(Group, "_go_along", give_backwards)


def _companions_come_and_go_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Group, "_is_held", lambda self, number: False)


def _rejected_is_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimLog, "fault_of", lambda self, *message: (Rejected("backend", "said, not done"), True))


def _unknown_partition_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    real = SimProducer._store_run

    def store(self: SimProducer, partition: Partition, run: Sequence[NewRecord]) -> Iterable[Published]:
        known = partition in self._store.logs
        return real(self, partition, run) if known else [Published(new.token, Stored(0)) for new in run]

    patch.setattr(SimProducer, "_store_run", store)


def _answers_twice(patch: pytest.MonkeyPatch) -> None:
    real = SimProducer._store_run
    patch.setattr(SimProducer, "_store_run", lambda self, partition, run: [*real(self, partition, run)] * 2)


def _no_answer(patch: pytest.MonkeyPatch) -> None:
    real = SimProducer._store_run
    patch.setattr(SimProducer, "_store_run", lambda self, partition, run: [*real(self, partition, run)][1:])


def _record_loses(**lost: object) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        real = simstore.stored

        def stored(new: NewRecord, position: int) -> Record:
            record = real(new, position)
            for name, value in lost.items():
                setattr(record, name, value)
            return record

        patch.setattr(simlog, "stored", stored)
        patch.setattr(simstore, "stored", stored)

    return mutate


def _delay_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimProducer, "__init__", _without_delay(SimProducer.__init__))


def _without_delay(real: Callable[..., None]) -> Callable[..., None]:
    def init(self: SimProducer, *arguments: Any) -> None:
        real(self, *arguments)
        self._delays = False

    return init


def _delayed_in_order_of_publishing(patch: pytest.MonkeyPatch) -> None:
    def take(self: Delayed, now_ms: int) -> list[tuple[Partition, NewRecord]]:
        due = sorted((item for item in self._heap if item[0] <= now_ms), key=lambda item: item[1])
        self._heap = [item for item in self._heap if item[0] > now_ms]
        return [(new.partition, new) for _, _, new in due]

    patch.setattr(Delayed, "take", take)


def _delayed_early(patch: pytest.MonkeyPatch) -> None:
    real = Delayed.take
    patch.setattr(Delayed, "take", lambda self, now_ms: real(self, now_ms + 100))


def _delayed_when_somebody_polls(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimLog, "release_due", lambda self: None)
    real = SimConsumer._collect

    def collect(self: SimConsumer, max_records: int) -> Any:
        RELEASE_DUE(self._store)
        return real(self, max_records)

    patch.setattr(SimConsumer, "_collect", collect)


def _delayed_twice(patch: pytest.MonkeyPatch) -> None:
    real = Delayed.take
    patch.setattr(Delayed, "take", lambda self, now_ms: [item for item in real(self, now_ms) for _ in range(2)])


def _delayed_survives_its_topic(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delayed, "drop", lambda self, topic: None)


def _nobody_wakes_for_delayed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delay, "LATE_MS", 50)
    patch.setattr(SimLog, "due", lambda self: None)


def _lag_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "unsettled", property(lambda self: self.log.end - self.watermark + 1))


def _reset_asks_nobody(patch: pytest.MonkeyPatch) -> None:
    from mqsdk.testing import simadmin

    patch.setattr(simadmin, "_refuse_members", lambda group: None)


def _partitions_may_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimAdmin, "ensure_topic", lambda self, topic, partitions: self._store.create_topic(topic, None))


def _every_group_starts_at_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(simstore, "_start_of", lambda log, start: log.end)


def _threads_leak(patch: pytest.MonkeyPatch) -> None:
    real = SimBackend.open

    def leaking(self: SimBackend, deadline: float) -> None:
        threading.Thread(target=LEAK.wait, args=(5.0,), name="leak", daemon=True).start()
        real(self, deadline)

    patch.setattr(SimBackend, "open", leaking)


LEAK = threading.Event()
RELEASE_DUE = SimLog.release_due

MUTANTS: list[tuple[Mutate, str]] = [
    (_settle_of_any_epoch, "test_an_old_epoch_settles_nothing"),
    (_settle_is_only_pretended, "test_settled_records_do_not_come_again"),
    (_settle_is_only_pretended, "test_progress_survives_all_connections"),
    (_watermark_may_fall, "test_the_watermark_never_falls_within_an_epoch"),
    (_highest_counts_as_watermark, "test_settled_above_the_watermark_is_remembered_by_whom_it_concerns"),
    (_blob_is_cut, "test_a_full_sparse_blob_comes_back_byte_for_byte"),
    (_epoch_stands_still, "test_epochs_rise_with_each_ownership"),
    (_epoch_stands_still, "test_an_epoch_is_never_given_twice"),
    (_always_clean, "test_an_owner_that_left_without_a_word_is_told_to_the_next_one"),
    (_never_clean, "test_a_hand_back_in_order_is_told_to_the_next_owner"),
    (_batches_backwards, "test_a_partition_is_delivered_in_publish_order"),
    (_records_twice, "test_positions_rise_within_an_ownership"),
    (_wrong_size, "test_the_size_of_a_batch_is_the_sum_of_its_records"),
    (_credit_is_ignored, "test_nothing_is_delivered_at_credit_zero_and_delivery_goes_on_with_credit"),
    (_credit_is_ignored, "test_a_pause_stops_a_running_delivery"),
    (_credit_adds_up, "test_a_new_credit_replaces_the_old_one"),
    (_limit_is_ignored, "test_poll_returns_at_most_what_was_asked_for"),
    (_wake_is_lost, "test_wake_before_a_poll_ends_it"),
    (_publish_wakes_nobody, "test_a_publish_ends_a_blocked_poll"),
    (_gaps_are_silent, "test_records_that_are_gone_before_they_were_read_are_a_gap"),
    (_close_keeps_the_partitions, "test_closing_hands_over_promptly"),
    (_close_is_a_crash, "test_a_close_hands_back_in_order_what_is_not_settled"),
    (_everybody_owns_everything, "test_two_consumers_share_the_partitions"),
    (_everybody_owns_everything, "test_a_partition_has_one_owner_at_a_time_while_members_come_and_go"),
    (_frozen_members_stay, "test_a_frozen_consumer_loses_its_partitions_and_settles_nothing_more"),
    (_leavers_get_more, "test_who_hands_back_unasked_is_leaving_and_gets_nothing_again"),
    (_groups_share_a_cursor, "test_settling_in_one_group_does_not_move_another"),
    (_companions_are_missed, "test_a_companion_is_taken_up_when_the_group_begins_in_it"),
    (_companions_go_their_own_way, "test_all_members_take_it_up_and_each_partition_has_the_owner_of_the_topics"),
    (_companions_go_their_own_way, "test_they_stay_together_while_members_come_and_go"),
    (_companions_come_and_go_alone, "test_the_next_owner_gets_neither_before_both_are_handed_back"),
    (_rejected_is_stored, "test_rejected_means_not_stored"),
    (_unknown_partition_is_swallowed, "test_a_publish_to_an_unknown_partition_is_rejected"),
    (_answers_twice, "test_every_token_is_answered_exactly_once"),
    (_no_answer, "test_a_publish_is_answered_stored"),
    (_record_loses(key=b""), "test_a_key_survives_byte_for_byte"),
    (_record_loses(headers=()), "test_user_headers_survive_in_order"),
    (_record_loses(sequence=1), "test_the_envelope_survives"),
    (_record_loses(extra=()), "test_further_headers_of_the_sdk_survive_apart_from_the_users"),
    (_delay_is_ignored, "test_what_is_published_meanwhile_comes_before"),
    (_delay_is_ignored, "test_what_is_not_due_is_no_lag_and_in_nobodys_way"),
    (_delayed_in_order_of_publishing, "test_delayed_records_come_in_the_order_of_their_due_times"),
    (_delayed_early, "test_a_delayed_record_comes_at_its_due_time_and_once"),
    (_delayed_when_somebody_polls, "test_what_is_due_counts_although_nobody_runs"),
    (_delayed_when_somebody_polls, "test_from_its_due_time_on_it_stands_before_what_is_published_later"),
    (_delayed_twice, "test_a_delayed_record_comes_at_its_due_time_and_once"),
    (_delayed_survives_its_topic, "test_it_goes_with_its_topic"),
    (_nobody_wakes_for_delayed, "test_a_consumer_that_sleeps_wakes_for_it"),
    (_record_loses(due_ms=None), "test_it_outlives_a_restart_of_the_broker"),
    (_lag_is_off_by_one, "test_progress_is_exact_per_partition"),
    (_reset_asks_nobody, "test_a_reset_is_refused_while_the_group_has_members"),
    (_reset_asks_nobody, "test_a_topic_with_members_is_not_deleted"),
    (_partitions_may_change, "test_another_number_of_partitions_is_refused"),
    (_every_group_starts_at_the_end, "test_a_late_group_sees_the_past_where_history_is_claimed"),
    (_threads_leak, "test_a_publish_is_answered_stored"),
]
ARGUMENTS: dict[str, tuple[object, ...]] = {"test_a_key_survives_byte_for_byte": (None,)}


class Impatient(Memory):
    """The memory class with bounds that a mutant may exhaust."""

    __test__ = False
    timeout_s = 0.4
    lease_s = 0.4
    short_lease_s = 0.1


@pytest.mark.parametrize(("mutate", "scenario"), MUTANTS, ids=[f"{mutate.__name__}-{name}" for mutate, name in MUTANTS])
def test_a_broken_promise_fails_its_scenario(mutate: Mutate, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    LEAK.clear()
    mutate(monkeypatch)
    stage = Impatient()
    stage.store_of_broker = SimLog()
    stage.set_up()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(stage, scenario)
    LEAK.set()


def run(stage: Impatient, scenario: str) -> None:
    getattr(stage, scenario)(*ARGUMENTS.get(scenario, ()))
    stage.tear_down()
