"""Which records start next, in which jobs, and what runs at the moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from mqsdk.core.actions import Finished, Job, Returned
from mqsdk.core.desk import Desk
from mqsdk.core.exclusion import Exclusion
from mqsdk.core.lanes import Lanes
from mqsdk.core.limits import Limits
from mqsdk.core.partition import Ownership
from mqsdk.core.sizing import FIRST, JobSize
from mqsdk.core.suspects import Suspects
from mqsdk.spi.events import Partition, Record


class RunningJob:
    """A job that was given out. records: those that the machine still expects an outcome for."""

    __slots__ = ("job", "ownership", "records", "reported")

    def __init__(self, job: Job, ownership: Ownership) -> None:
        self.job = job
        self.ownership = ownership
        self.records: list[Record] = job.records
        self.reported: set[tuple[int, bool]] = set()

    def remove(self, records: Sequence[Record]) -> list[Record]:
        """Expect nothing more for these records; those that were expected until now."""
        positions = {record.position for record in records}
        found = [record for record in self.records if record.position in positions]
        self.records = [record for record in self.records if record.position not in positions]
        return found


class Starter:
    """Gives out jobs, a fair turn for each partition."""

    def __init__(self, desk: Desk, suspects: Suspects, limits: Limits) -> None:
        self._desk = desk
        self._suspects = suspects
        self._size = JobSize(desk.spec.is_async)
        self._running: dict[int, RunningJob] = {}
        self._turn: deque[Ownership] = deque()
        self._alone = False  # something runs, or waits to run, with nothing beside it
        self._alone_token = 0  # of the last job that ran so
        self._ended_alone: Ownership | None = None  # whose it was; nothing starts before its end is stored
        self._limits = limits
        self.exclusion = Exclusion(desk.spec, self._offer_first)

    # --- what runs --------------------------------------------------------------------------------------------------------------

    def find(self, job: Job) -> RunningJob | None:
        return self._running.get(job.token)

    def finished(self, now: float, event: Finished) -> RunningJob | None:
        """Take a job out of what runs; None when it is not known (any more)."""
        run = self._running.pop(event.job.token, None)
        if run is not None:
            run.ownership.running -= 1
            run.ownership.started.difference_update([record.position for record in run.job.records])
            ran = len(run.records) - len(event.skipped)
            self._size.observe(ran, event.elapsed_s)
            if ran > 0:
                calls = 1 if event.job.batch else ran
                self._desk.counters.durations.add(event.elapsed_s / calls, calls)
            if self._limits.is_on:
                self._limits.ended(now, event.job.token, ran, event.failures, len(event.skipped))
            self.exclusion.ended(run.job.partition, run.records)
            if event.job.token == self._alone_token:
                self._ended_alone, run.ownership.is_urgent = run.ownership, True
        return run

    def returned(self, now: float, run: RunningJob, event: Returned) -> tuple[list[Record], list[Record]]:
        """Records of a running job run no more; those that were expected until now: (handled, never started)."""
        handled, records = self._taken_back(run, event.handled), self._taken_back(run, event.records)
        if self._limits.is_on:
            self._limits.ended(now, event.job.token, len(handled), (), len(records))
        return handled, records

    def _taken_back(self, run: RunningJob, records: Sequence[Record]) -> list[Record]:
        found = run.remove(records)
        run.ownership.started.difference_update([record.position for record in found])
        self.exclusion.ended(run.job.partition, found)
        return found

    def of(self, partition: Partition) -> Iterator[RunningJob]:
        """Jobs of this partition that still run, of whatever epoch."""
        return (run for run in self._running.values() if run.job.partition == partition)

    def __len__(self) -> int:
        return len(self._running)

    # --- what starts ------------------------------------------------------------------------------------------------------------

    def offer(self, ownership: Ownership) -> None:
        """Something of it may be ready."""
        if not ownership.listed and not ownership.fenced:
            ownership.listed = True
            self._turn.append(ownership)

    def _offer_first(self, ownership: Ownership) -> None:
        """What waited for its twin goes first: whoever of the two has just run must not win every time."""
        if not ownership.fenced:
            if ownership.listed:
                self._turn.remove(ownership)
            ownership.listed = True
            self._turn.appendleft(ownership)

    def start(self, now: float) -> None:
        """Give out jobs until enough are out, nothing is ready, or a limit says wait."""
        limits = self._limits
        limits.until, is_limited = None, limits.is_on
        if self._desk.is_stopped:
            return
        if self._alone and (self._running or not self._is_cleared()):
            return
        self._alone = False
        tuning, turn = self._desk.tuning, self._turn
        free = tuning.concurrency * limits.jobs_per_worker - len(self._running)
        ready = sum(ownership.queue.ready for ownership in turn)
        while free > 0 and turn and not self._alone:
            if is_limited and not self._admits(now):
                return
            ownership = turn[0]
            before = ownership.queue.ready
            job = self._next(now, ownership, ready) if ownership.may_start(now) else None
            if job is None and (self._alone or limits.until is not None):
                return  # when nothing runs any more, or its moment has come, it is the first
            if job is None:
                turn.popleft()
                ownership.listed = False
                continue
            turn.rotate(-1)
            free -= 1
            ready -= before - ownership.queue.ready
            if is_limited:
                limits.started(now, job)
            self._running[job.token] = RunningJob(job, ownership)
            self.exclusion.started(job.partition, job.records)
            ownership.running += 1
            self._suspects.start(ownership, job)

    def _is_cleared(self) -> bool:
        """The end of what ran alone is stored: else the next one that ends the process would have it blamed once more."""
        ownership = self._ended_alone
        if ownership is not None and not ownership.gone and (ownership.dirty or ownership.unanswered):
            return False
        self._ended_alone = None
        return True

    def _admits(self, now: float) -> bool:
        """Whether a limit lets something start. Without anything that is ready none is asked, so that nobody waits for its moment."""
        turn = self._turn
        while turn and not (turn[0].queue.ready or turn[0].queue.again):
            turn.popleft().listed = False
        return bool(turn) and self._limits.admits(now)

    def _next(self, now: float, ownership: Ownership, ready: int) -> Job | None:
        queue, batch, limits = ownership.queue, self._desk.spec.batch, self._limits
        if limits.is_trying:
            return self._next_probe(ownership)
        record = queue.take_again()
        if record is not None:
            return self._next_again(ownership, record)
        if not queue.ready:
            return None
        if batch is not None:
            return self._next_batch(now, ownership, batch)
        size, starts = self._size.next(ready, self._desk.tuning.concurrency)
        if size > limits.most:
            size = limits.most
        if ownership.is_suspect:
            size = min(size, FIRST)  # the fewer are blamed, the sooner the guilty one is known
        return self._job(ownership, queue.take(size, starts), 1)

    def _next_again(self, ownership: Ownership, record: Record) -> Job | None:
        """A record with a past; one that may have ended processes waits until nothing else runs."""
        attempt = ownership.attempts[record.position]
        self._alone = attempt.runs_alone
        if attempt.runs_alone and self._running:
            ownership.queue.again.appendleft(record)
            return None
        ownership.queue.unblock(record.key)
        job = self._job(ownership, [record], attempt.failed + 1)
        if attempt.runs_alone and job is not None:
            self._alone_token = job.token
        return job

    def _next_probe(self, ownership: Ownership) -> Job | None:
        """One record. A probe may cost an attempt: not always the same message's, as long as there are others."""
        queue = ownership.queue
        job = self._job(ownership, queue.take(1, 1), 1) if queue.ready else None
        if job is not None or (record := queue.take_again()) is None:
            return job
        return self._next_again(ownership, record)

    def _next_batch(self, now: float, ownership: Ownership, batch: int) -> Job | None:
        """A full batch, or what there is once the oldest of it has waited `batch_wait_s`."""
        queue, wait = ownership.queue, self._desk.spec.batch_wait_s
        if wait > 0 and queue.available(batch) < batch:
            if ownership.fill_at is None:
                ownership.fill_at = now + wait
                self._desk.timers.at(ownership.fill_at, self._filled, ownership)
            if now < ownership.fill_at:
                return None
        if self._limits.is_on and not self._limits.admits_batch(now, queue.available(batch)):
            return None
        ownership.fill_at = None
        return self._job(ownership, queue.take(batch, batch), 1)

    def _filled(self, now: float, ownership: Ownership, _: object) -> None:
        self.offer(ownership)

    def _job(self, ownership: Ownership, records: list[Record], attempt: int) -> Job | None:
        if not records:
            return None  # all that is ready waits for its twin
        desk = self._desk
        return Job(desk.token(), ownership.partition, ownership.origin, records, attempt, desk.spec.batch is not None)

    # --- keys that outlive their ownership --------------------------------------------------------------------------------------

    def hold_orphans(self, ownership: Ownership) -> None:
        """Keep the keys of handlers that still run for an earlier ownership of the partition blocked in this one."""
        if isinstance(ownership.queue, Lanes):
            for run in self.of(ownership.partition):
                ownership.queue.hold(run.records)
        self.exclusion.owned(ownership, self._running.values())
