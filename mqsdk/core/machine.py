"""The state machine of one consumer: `feed(now, events) -> actions`. The only file that knows all the others of `core`.

No thread, clock, lock or log: the runtime feeds it from one thread (`view` and `spec` may be read from any) and performs what it answers.

Life of a partition: Assigned -> Batch... -> Revoking (nothing starts, what runs may end, the last Settle is final) or Lost (state is
dropped at once). What still runs then is an orphan: its result changes nothing, and an ordered consumer keeps its key blocked until
it has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mqsdk.core import deadletter
from mqsdk.core.actions import (
    Action,
    CopyDone,
    CutPassed,
    CutsBegin,
    CutsOver,
    Drain,
    Drained,
    Fence,
    Finished,
    Letters,
    Overdue,
    Pause,
    Recall,
    Release,
    Retuned,
    Returned,
    Spec,
    Tuning,
)
from mqsdk.core.attempts import accept
from mqsdk.core.credit import Credits
from mqsdk.core.cut import Cutting
from mqsdk.core.desk import Desk, Draws
from mqsdk.core.failing import Failing
from mqsdk.core.following import Following
from mqsdk.core.halting import Halting
from mqsdk.core.limits import Limits
from mqsdk.core.outcomes import Outcomes
from mqsdk.core.partition import Ownership
from mqsdk.core.settling import Settling
from mqsdk.core.span import SpanGuard
from mqsdk.core.stall import StallGuard
from mqsdk.core.starting import Starter
from mqsdk.core.suspects import Suspects, suspect
from mqsdk.core.view import MachineView, view_of
from mqsdk.events import GapSeen
from mqsdk.message import Origin
from mqsdk.spi.events import Assigned, Batch, ConsumerEvent, Gap, Link, Lost, Partition, Record, Renewed, Revoking, Settled

__all__ = ["Machine", "MachineEvent", "MachineView"]

MachineEvent = (
    ConsumerEvent
    | Finished
    | Returned
    | Overdue
    | CopyDone
    | CutPassed
    | CutsBegin
    | CutsOver
    | Retuned
    | Pause
    | Release
    | Letters
    | Drain
)

# The last settle of a revoked partition must arrive before the deadline.
MARGIN_S = 0.05


class Machine:
    """One consumer.

    rng: has `.random()`, for jitter. wall_offset_s: Unix time minus monotonic time, for the times in dead letters.
    Raises ValueError for a tuning that it cannot carry out (`halt_*` without a memory for it), here and when a Retuned is fed.
    """

    def __init__(self, spec: Spec, tuning: Tuning, rng: Draws, wall_offset_s: float = 0.0) -> None:
        self.spec = spec
        self._desk = Desk(spec, tuning, rng, wall_offset_s)
        self._owned: dict[Partition, Ownership] = {}
        self._credits = Credits(tuning)
        self._suspects = Suspects(self._desk)
        self._limits = Limits(self._desk)
        self._starter = Starter(self._desk, self._suspects, self._limits)
        self._settling = Settling(self._desk, self._suspects, self._end_lost)
        self._halting = Halting(self._desk, self._touch)
        self._following = Following(self._desk, self._touch)
        self._failing = Failing(self._desk, self._halting, self._following, self._touch)
        self._outcomes = Outcomes(self._desk, self._starter, self._failing, self._limits, self._owned, self._touch)
        self._cutting = Cutting(self._desk, self._queue)
        self._stall = StallGuard(self._desk)
        self._span = SpanGuard(self._desk, self._touch)
        self._paused = False
        self._drain_by: float | None = None
        self._is_over = False
        self._held = False
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            Assigned: self._assigned,
            Renewed: self._renewed,
            Link: self._nothing,
            Revoking: self._revoking,
            Lost: self._lost,
            Batch: self._batch,
            Gap: self._gap,
            Settled: self._settling.answered,
            Finished: self._outcomes.finished,
            Returned: self._outcomes.returned,
            Overdue: self._outcomes.overdue,
            CopyDone: self._failing.copied,
            CutPassed: self._cutting.passed,
            CutsBegin: self._cutting.begin,
            CutsOver: self._cutting.over,
            Retuned: self._retuned,
            Pause: self._pause,
            Release: self._release,
            Letters: self._letters,
            Drain: self._drain,
        }
        self._apply_pause()

    # --- what the runtime calls -------------------------------------------------------------------------------------------------

    def feed(self, now: float, events: Sequence[MachineEvent]) -> list[Action]:
        """Take in what happened, in order, and all that is due by `now` (monotonic seconds). Returns what to do, in order."""
        self._desk.actions = []
        if self._is_over:
            return []
        handlers = self._handlers
        for event in events:
            handlers[type(event)](now, event)
        for due, ownership, subject in self._desk.timers.take(now):
            due(now, ownership, subject)
        self._leave_when_done(now)
        if self._limits.has_opened or self._halting.has_stopped:
            self._recall(now)
        self._starter.start(now)
        self._settling.tick(now)
        self._halting.tick()
        self._desk.actions += self._credits.refresh(now)
        self._held = self._is_held(now)
        self._stall.check(now, self._owned.values(), self._held and not len(self._starter))
        self._drained_when_done(now)
        return self._desk.actions

    def set_wall_offset(self, wall_offset_s: float) -> None:
        """The wall clock may have been set since: Unix time minus monotonic time, now."""
        self._desk.wall_offset_s = wall_offset_s

    def due(self) -> float | None:
        """Monotonic time of the next timer, None without one: `feed(now, [])` then does what is due."""
        desk, until = self._desk, self._limits.until
        moments = (desk.timers.next(), self._settling.next(), self._credits.next(), self._stall.next(), self._drain_by, until)
        return None if self._is_over else min((moment for moment in moments if moment is not None), default=None)

    def view(self) -> MachineView:
        """A snapshot for people; any thread."""
        is_paused = self._paused or self._desk.tuning.paused
        owned, stored_at = list(self._owned.values()), self._settling.last_stored_at
        stalled, breaker = self._stall.is_stalled, self._limits.breaker
        return view_of(owned, self._desk.counters, stored_at, is_paused, stalled, self._held, breaker)

    def _is_held(self, now: float) -> bool:
        """What is ready waits for a moment, which comes by itself: of a limit, or for its batch to fill."""
        if self._limits.until is not None:
            return True
        return self.spec.batch_wait_s > 0 and any((one.fill_at or 0.0) > now for one in self._owned.values())

    # --- ownership --------------------------------------------------------------------------------------------------------------

    def _assigned(self, now: float, event: Assigned) -> None:
        earlier = self._owned.get(event.partition)
        if earlier is not None:
            if earlier.epoch >= event.epoch:
                return
            self._end_lost(now, earlier)
        spec = self.spec
        ownership = Ownership(event, self._origin(event), self._credits.open(event.partition), spec.ordered, spec.batch is not None)
        ownership.open_account(self._desk.is_stopped)
        if spec.sparse_bytes:
            suspect(ownership, event, self._desk.tuning)
            self._settling.note(ownership)
        self._starter.hold_orphans(ownership)
        self._owned[event.partition] = ownership
        self._following.owned(now, ownership)
        if self._drain_by is not None:
            self._hand_back(now, ownership, self._drain_by)

    def _origin(self, event: Assigned) -> Origin:
        """Where users are told that messages come from: the topic, also for what its group's retry topic holds."""
        spec, leader = self.spec, self._owned.get(Partition(self.spec.topic, event.partition.number))
        fence = event.epoch if leader is None else leader.epoch
        return Origin(spec.topic, spec.group, spec.cluster, event.partition.number, event.epoch, fence)

    def _revoking(self, now: float, event: Revoking) -> None:
        ownership = self._current(event.partition, event.epoch)
        if ownership is not None:
            self._hand_back(now, ownership, event.deadline - min(MARGIN_S, max(0.0, event.deadline - now) / 10))

    def _hand_back(self, now: float, ownership: Ownership, deadline: float) -> None:
        """Start nothing more of it; settle for the last time when nothing runs, at the deadline at the latest."""
        if ownership.deadline is not None and ownership.deadline <= deadline:
            return
        ownership.deadline = deadline
        self._desk.timers.at(deadline, self._deadline_passed, ownership)
        if not ownership.fenced:
            ownership.fenced = True
            ownership.open_account(self._desk.is_stopped)
            self._desk.actions.append(Fence(ownership.partition, ownership.epoch, cancel=False))
            self._withdraw(now, ownership)

    def _deadline_passed(self, now: float, ownership: Ownership, _: object) -> None:
        if not ownership.gone and ownership.deadline is not None and ownership.deadline <= now:
            self._leave(now, ownership)

    def _renewed(self, now: float, event: Renewed) -> None:
        for ownership in self._owned.values():
            ownership.valid_until = event.valid_until
            self._starter.offer(ownership)

    def _leave_when_done(self, now: float) -> None:
        for ownership in [one for one in self._owned.values() if one.fenced and not one.running and not one.copying]:
            self._leave(now, ownership)

    def _leave(self, now: float, ownership: Ownership) -> None:
        """The end of an ownership in order. At the deadline of a drain, a partition whose handler still runs ends with the process."""
        if ownership.running:
            self._desk.actions.append(Fence(ownership.partition, ownership.epoch, cancel=True))
        if ownership.running and self._drain_by is not None and self._drain_by <= now:
            self._settling.last(now, ownership)
        else:
            self._settling.final(now, ownership)
        self._forget(ownership)

    def _lost(self, now: float, event: Lost) -> None:
        ownership = self._current(event.partition, event.epoch)
        if ownership is not None:
            self._end_lost(now, ownership)
        else:
            self._settling.lost(event.partition, event.epoch)

    def _end_lost(self, now: float, ownership: Ownership) -> None:
        self._desk.actions.append(Fence(ownership.partition, ownership.epoch, cancel=True))
        self._settling.forget(ownership)
        self._forget(ownership)
        self._withdraw(now, ownership)

    def _withdraw(self, now: float, ownership: Ownership) -> None:
        """Jobs that were to be written down before they start never will: as if every record of them had been skipped."""
        for job in self._suspects.withdraw(ownership):
            self._outcomes.finished(now, Finished(job, (), job.records))

    def _recall(self, now: float) -> None:
        """The breaker opened, or a partition stopped. The runtime is told to start nothing more of what is out; what is still written down
        is not out yet."""
        self._limits.has_opened = self._halting.has_stopped = False
        self._desk.actions.append(Recall())
        for ownership in list(self._owned.values()):
            self._withdraw(now, ownership)

    def _forget(self, ownership: Ownership) -> None:
        ownership.gone = ownership.fenced = True
        del self._owned[ownership.partition]
        self._credits.close(ownership.partition)
        self._desk.timers.forget(ownership)
        self._failing.forget(ownership)
        self._following.forget(ownership)
        self._cutting.forget(ownership)

    def _current(self, partition: Partition, epoch: int) -> Ownership | None:
        ownership = self._owned.get(partition)
        return ownership if ownership is not None and ownership.epoch == epoch else None

    # --- records ----------------------------------------------------------------------------------------------------------------

    def _batch(self, now: float, event: Batch) -> None:
        ownership = self._current(event.partition, event.epoch)
        if ownership is None or not event.records:
            return
        ownership.account.use(now, len(event.records), event.bytes)
        if ownership.fenced:
            return
        records = ownership.receive(event.records, event.bytes)
        if self.spec.reads_letters:
            records = ownership.discard(records, [record for record in records if deadletter.is_done(record)])
        if ownership.attempts:  # a shadow says that it is no first attempt, so that nobody looks at the headers of the others
            records = self._without_shadows(ownership, records)
        if self.spec.has_copies and records:
            copies = ownership.copies.among(records)
            records = ownership.discard(records, copies)
            self._desk.counters.repeated += len(copies)
        self._desk.counters.redelivered += ownership.take_repeats()
        if self._cutting.is_on:
            records = self._cutting.admit(now, ownership, records)
        self._queue(now, ownership, records)

    def _without_shadows(self, ownership: Ownership, records: Sequence[Record]) -> Sequence[Record]:
        """Before anything looks at its producer: a shadow takes no cut, and is no first of which another one is a copy."""
        shadows = [record for record in records if record.attempt > 1 and record.shadow]
        self._desk.counters.shadows += len(shadows)
        return ownership.discard(records, shadows)

    def _queue(self, now: float, ownership: Ownership, records: Sequence[Record]) -> None:
        """They may run when their turn comes."""
        self._following.mark(ownership, records)
        late = ownership.queue.add(records)
        if ownership.parked.is_stopped:
            late = records
        if late:
            ownership.park(late, now)
        self._failing.take_due(now, ownership)
        self._touch(now, ownership)

    def _gap(self, now: float, event: Gap) -> None:
        ownership = self._current(event.partition, event.epoch)
        if ownership is None:
            return
        start, (topic, number) = max(event.start, ownership.expected), event.partition
        ownership.expected = max(ownership.expected, event.stop)
        self._desk.counters.gap += ownership.skip(start, event.stop)
        self._desk.report(GapSeen(topic, self.spec.group, self.spec.cluster, number, event.start, event.stop, event.reason))
        self._touch(now, ownership)

    def _touch(self, now: float, ownership: Ownership) -> None:
        """Something of it was received, settled or became ready."""
        self._settling.note(ownership)
        self._span.check(now, ownership)
        self._starter.offer(ownership)

    # --- control ----------------------------------------------------------------------------------------------------------------

    def _nothing(self, now: float, event: object) -> None:
        """The runtime reports it."""

    def _retuned(self, now: float, event: Retuned) -> None:
        self._desk.tuning = accept(event.tuning, self.spec)
        self._credits.retune(event.tuning)
        self._limits.retune(now)
        self._following.retuned(now, self._owned.values())
        self._apply_pause()
        for ownership in self._owned.values():
            self._touch(now, ownership)

    def _pause(self, now: float, event: Pause) -> None:
        self._paused = event.paused
        self._apply_pause()

    def _release(self, now: float, event: Release) -> None:
        for ownership, record in self._halting.release(now, self._owned.values(), event):
            self._failing.wait(now, ownership, record)

    def _letters(self, now: float, event: Letters) -> None:
        for ownership in self._following.read(now, event):
            self._failing.take_due(now, ownership)

    def _apply_pause(self) -> None:
        self._desk.is_stopped = self._paused or self._desk.tuning.paused or self._drain_by is not None
        for ownership in self._owned.values():
            ownership.open_account(self._desk.is_stopped)

    def _drain(self, now: float, event: Drain) -> None:
        self._drain_by = event.deadline if self._drain_by is None else min(self._drain_by, event.deadline)
        self._apply_pause()
        for ownership in self._owned.values():
            self._hand_back(now, ownership, self._drain_by)

    def _drained_when_done(self, now: float) -> None:
        if self._drain_by is None:
            return
        unsettled = self._settling.unconfirmed()
        if now >= self._drain_by or not (self._owned or len(self._starter) or unsettled):
            self._is_over = True
            self._desk.actions.append(Drained(len(self._starter), unsettled))
