"""The mutation gate: M1 to M26, each with the simulation that finds it and the invariants by which.

Not here: M22, a memory of copies that is saved ahead of the watermark. It is not saved at all (`core.copies`).
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from mqsdk.api.outlet import Outlet
from mqsdk.core import oldside, sparse
from mqsdk.core.actions import Drain
from mqsdk.core.attempts import Attempt
from mqsdk.core.copies import Copies
from mqsdk.core.cut import Cutting
from mqsdk.core.failing import Failing
from mqsdk.core.lanes import Lanes
from mqsdk.core.machine import Machine
from mqsdk.core.oldside import OldSide
from mqsdk.core.outcomes import Outcomes
from mqsdk.core.partition import Ownership
from mqsdk.core.timers import Timers
from mqsdk.runtime import redrive
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.publisher import Publisher
from mqsdk.spi.events import Record, Stored
from tests.simulation import fleet, mutants
from tests.simulation.broken import Broken

Patch = Callable[[pytest.MonkeyPatch], None]
WITHIN = 2000  # seeds


def results_of_an_old_epoch_count(patch: pytest.MonkeyPatch) -> None:
    """Of messages that the new ownership has been given too."""
    original = Outcomes.finished

    def finished(self: Outcomes, now: float, event: Any) -> None:
        run, current = self._starter.find(event.job), self._owned.get(event.job.partition)
        positions = [record.position for record in event.job.records]
        if run is not None and current is not None and run.ownership.gone and not current.fenced:
            missing = current.watermark.missing(positions[0], positions[-1] + 1)
            if missing == [(positions[0], positions[-1] + 1)] and positions[-1] < current.expected:
                run.ownership = current
                current.running += 1
        original(self, now, event)

    patch.setattr(Outcomes, "finished", finished)


def unknown_is_repeated_with_a_new_id(patch: pytest.MonkeyPatch) -> None:
    original = Publisher._publish_each

    def publish_each(self: Publisher, records: Any, latest: Any, deadline: float) -> Any:
        return original(self, [record._replace(id=f"{record.id}'") for record in records], latest, deadline)

    patch.setattr(Publisher, "_publish_each", publish_each)


def unknown_is_repeated_behind_newer_ones(patch: pytest.MonkeyPatch) -> None:
    """Each one by itself, the newest first."""
    original = Publisher._publish_each

    def publish_each(self: Publisher, records: Any, latest: Any, deadline: float) -> Any:
        for index in reversed(range(len(records))):
            alone = [one if at == index else (Stored(0), 0) for at, one in enumerate(latest)]
            yield from original(self, records, alone, deadline)

    patch.setattr(Publisher, "_publish_each", publish_each)


def a_key_is_free_when_its_handler_is_overdue(patch: pytest.MonkeyPatch) -> None:
    original, end = Outcomes.overdue, Lanes.end
    freed: dict[int, Record] = {}

    def overdue(self: Outcomes, now: float, event: Any) -> None:
        original(self, now, event)
        run = self._starter.find(event.job)
        if run is None or not event.timed_out or run.ownership.fenced or not isinstance(run.ownership.queue, Lanes):
            return
        if id(event.record) not in freed:
            run.ownership.queue.end([event.record])
            freed[id(event.record)] = event.record
            self._changed(now, run.ownership)

    def ended(self: Lanes, records: Any) -> None:
        end(self, [record for record in records if freed.pop(id(record), None) is None])

    patch.setattr(Outcomes, "overdue", overdue)
    patch.setattr(Lanes, "end", ended)


def a_backoff_outlives_its_partition(patch: pytest.MonkeyPatch) -> None:
    """The timers of a partition that was lost start its messages under the next ownership."""
    owned: dict[Any, Ownership] = {}
    original, due = Machine._assigned, Failing._retry_due

    def assigned(self: Machine, now: float, event: Any) -> None:
        original(self, now, event)
        owned[id(self._failing), event.partition] = self._owned[event.partition]

    def retry_due(self: Failing, now: float, ownership: Ownership, record: Record) -> None:
        current = owned.get((id(self), ownership.partition))
        if not ownership.gone or current is None or current.fenced:
            due(self, now, ownership, record)
            return
        current.attempts.setdefault(record.position, Attempt(0, retry_at=float("-inf")))
        current.queue.again.append(record)
        self._changed(now, current)

    patch.setattr(Timers, "forget", lambda self, ownership: None)
    patch.setattr(Machine, "_assigned", assigned)
    patch.setattr(Failing, "_retry_due", retry_due)


def the_restored_set_is_dropped(patch: pytest.MonkeyPatch) -> None:
    original = sparse.decode
    patch.setattr(sparse, "decode", lambda blob, watermark: original(blob, watermark)._replace(ranges=()))


def crashes_are_not_saved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ownership, "_suspicion", lambda self, in_order: None)


def a_drain_starts_what_is_queued(patch: pytest.MonkeyPatch) -> None:
    mutants.a_drain_starts_what_is_queued(patch)
    patch.setattr(ConsumerLoop, "drain", lambda self, deadline: self._tell(Drain(deadline)))


def a_reload_takes_effect_in_two_steps(patch: pytest.MonkeyPatch) -> None:
    original = ConsumerLoop.retune

    def retune(self: ConsumerLoop, tuning: Any) -> None:
        original(self, replace(tuning, retry=self._machine._desk.tuning.retry, concurrency=self._machine._desk.tuning.concurrency))
        self._clock.sleep(0.01)
        original(self, tuning)

    patch.setattr(ConsumerLoop, "retune", retune)


def copies_for_one_group_go_to_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redrive, "target_of", lambda topic, group: topic)


def copies_are_told_apart_without_their_partition(patch: pytest.MonkeyPatch) -> None:
    """One memory for all: what another owner has had is taken for a copy."""
    original, shared = Copies.among, deque[list[Any]]()

    def among(self: Copies, records: Any) -> Any:
        self._batches, self._count = shared, 0
        return original(self, records)

    patch.setattr(Copies, "among", among)


def what_was_seen_is_taken_for_settled(patch: pytest.MonkeyPatch) -> None:
    """By whichever owner: what one has had and not handled is no copy for the next one."""
    seen: set[Any] = set()

    def among(self: Copies, records: Any) -> Any:
        copies = [record for record in records if record.producer and record.headers in seen]
        seen.update(record.headers for record in records)
        return copies

    patch.setattr(Copies, "among", among)


def writers_go_to_the_new_cluster_at_once(patch: pytest.MonkeyPatch) -> None:
    original = Outlet._release_when_answered

    def release(self: Outlet, hold: Any) -> bool:
        is_sending, self._supervisor.is_sending = self._supervisor.is_sending, lambda covers: False  # type: ignore[method-assign]
        busy, self._busy = self._busy, {}
        try:
            return original(self, hold)
        finally:
            self._supervisor.is_sending, self._busy = is_sending, busy  # type: ignore[method-assign]

    patch.setattr(Outlet, "_release_when_answered", release)


def the_reader_overtakes_the_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cutting, "is_on", False)


def a_closed_cluster_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(oldside, "WATCH_EVERY_S", 1e9)
    patch.setattr(OldSide, "reopened", lambda self, now: None)


class Entry(NamedTuple):
    """found_as: one of these stands at the beginning of what is raised."""

    number: str
    patch: Patch
    found_as: tuple[str, ...]


GATE = (
    Entry("M1", mutants.commit_the_highest_position, ("I4", "LOST")),
    Entry("M2", mutants.no_lanes, ("I2 OVERLAP", "OVERLAP", "OVERTAKE")),
    Entry("M3", mutants.retry_behind_later_messages, ("OVERTAKE", "I10")),
    Entry("M4", results_of_an_old_epoch_count, ("I2", "I4", "I6", "I10", "I15", "OVER", "BACKWARDS", "ValueError: bytes")),
    Entry("M5", mutants.settle_before_the_copy_is_confirmed, ("I4", "I7", "LOST")),
    Entry("M6", mutants.in_flight_leaks_on_revoke, ("I6", "STUCK")),
    Entry("M7", mutants.paused_for_ever, ("STUCK",)),
    Entry("M8", the_restored_set_is_dropped, ("I15",)),
    Entry("M8 shifted", mutants.the_restored_set_is_shifted, ("I4", "I15", "LOST")),
    Entry("M9", unknown_is_repeated_with_a_new_id, ("UNEXPECTED", "LOST")),
    Entry("M10", unknown_is_repeated_behind_newer_ones, ("OVERTAKE", "BACKWARDS")),
    Entry("M11", mutants.a_revoke_settles_what_still_runs, ("I4",)),
    Entry("M12", a_key_is_free_when_its_handler_is_overdue, ("I2 OVERLAP", "I10", "OVER")),
    Entry("M13", mutants.the_watermark_runs_over_what_was_not_received, ("I4", "LOST")),
    Entry("M14", a_backoff_outlives_its_partition, ("I8", "I15", "I2", "I10", "OVER")),
    Entry("M15", crashes_are_not_saved, ("STUCK",)),
    Entry("M16", a_drain_starts_what_is_queued, ("I9",)),
    Entry("M17", a_reload_takes_effect_in_two_steps, ("I13",)),
    Entry("M18", the_reader_overtakes_the_cut, ("I2 OVERLAP", "OVERTAKE", "BACKWARDS")),
    Entry("M19", copies_are_told_apart_without_their_partition, ("I4", "LOST")),
    Entry("M20", mutants.a_gap_is_an_empty_poll, ("I4", "STUCK", "LOST", "I16")),
    Entry("M21", what_was_seen_is_taken_for_settled, ("I4", "LOST")),
    Entry("M23", copies_for_one_group_go_to_all, ("I15", "DUPLICATE")),
    Entry("M24", mutants.keys_of_running_handlers_are_free_after_a_loss, ("I2 OVERLAP",)),
    Entry("M25", writers_go_to_the_new_cluster_at_once, ("OVERTAKE", "BACKWARDS")),
    Entry("M26", a_closed_cluster_is_forgotten, ("LOST", "STUCK", "I14")),
)


class Found(NamedTuple):
    seeds: int
    what: str


def find(entry: Entry, within: int = WITHIN) -> Found | None:
    """How many seeds it takes until the mutant is found, and as what. None: it survives."""
    with pytest.MonkeyPatch.context() as patch:
        entry.patch(patch)
        gc.disable()
        try:
            for seed in range(within):
                try:
                    fleet.run(seed)
                except Broken as error:
                    return Found(seed + 1, str(error).partition(": ")[2])
        finally:
            gc.enable()
    return None
