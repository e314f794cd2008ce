"""What becomes of jobs: handled, failed, handed back, overdue, or orphaned because their ownership is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mqsdk.core import deadletter
from mqsdk.core.actions import Cancel, Finished, Overdue, Returned
from mqsdk.core.desk import Desk
from mqsdk.core.failing import Failing
from mqsdk.core.lanes import Lanes
from mqsdk.core.limits import Limits
from mqsdk.core.partition import Ownership
from mqsdk.core.starting import RunningJob, Starter
from mqsdk.events import Stuck
from mqsdk.spi.events import Partition, Record


class Outcomes:
    """Of one consumer. owned: its ownerships as they are now. changed(now, ownership): something was settled or became ready."""

    def __init__(
        self,
        desk: Desk,
        starter: Starter,
        failing: Failing,
        limits: Limits,
        owned: Mapping[Partition, Ownership],
        changed: Callable[[float, Ownership], None],
    ) -> None:
        self._desk = desk
        self._starter = starter
        self._failing = failing
        self._limits = limits
        self._owned = owned
        self._changed = changed

    def finished(self, now: float, event: Finished) -> None:
        run = self._starter.finished(now, event)
        if run is None:
            return
        ownership = run.ownership
        if ownership.gone:
            self._desk.counters.orphaned += len(run.records) - len(event.skipped)
            self._free_orphans(now, run, run.records)
            return
        if not event.failures and not event.skipped:
            self._desk.counters.handled += len(run.records)
            ownership.end(run.records)
        else:
            self._finished_in_part(now, run, event)
        self._failing.take_due(now, ownership)
        self._changed(now, ownership)

    def _finished_in_part(self, now: float, run: RunningJob, event: Finished) -> None:
        ownership = run.ownership
        expected = {record.position for record in run.records}
        failures = [pair for pair in event.failures if pair[0].position in expected]
        skipped = run.remove(event.skipped)
        run.remove([record for record, _ in failures])
        self._desk.counters.handled += len(run.records)
        ownership.end(run.records)
        ownership.take_back(skipped, now)
        self._failing.failed(now, ownership, run.job.attempt, failures)

    def returned(self, now: float, event: Returned) -> None:
        run = self._starter.find(event.job)
        if run is None:
            return
        ownership = run.ownership
        handled, records = self._starter.returned(now, run, event)
        if ownership.gone:
            self._desk.counters.orphaned += len(handled)
            self._free_orphans(now, run, [*handled, *records])
            return
        self._desk.counters.handled += len(handled)
        ownership.end(handled)
        ownership.take_back(records, now)
        self._failing.take_due(now, ownership)
        self._changed(now, ownership)

    def _free_orphans(self, now: float, run: RunningJob, records: Sequence[Record]) -> None:
        """Handlers of an earlier ownership have returned: their keys may go on."""
        ownership = self._owned.get(run.job.partition)
        if ownership is not None and isinstance(ownership.queue, Lanes):
            ownership.queue.end(records)
            self._failing.take_due(now, ownership)
            self._changed(now, ownership)

    def overdue(self, now: float, event: Overdue) -> None:
        run = self._starter.find(event.job)
        if run is None:
            return
        kind = (event.record.position, event.timed_out)
        if kind not in run.reported:
            run.reported.add(kind)
            self._desk.report(Stuck(*deadletter.names(event.job.origin, event.record), event.job.attempt, event.age_s, event.stack))
        if event.timed_out and not run.ownership.fenced:
            self._block(now, run.ownership, event.record)
        if event.timed_out:
            self._limits.overdue(now, event.job.token)
            self._desk.actions.append(Cancel(event.job, event.record))

    def _block(self, now: float, ownership: Ownership, record: Record) -> None:
        """What waits for this key may wait long: it must not use up what may be in flight."""
        if record.position not in ownership.parked:
            ownership.park([record, *ownership.queue.block(record.key)], now)
            self._changed(now, ownership)
