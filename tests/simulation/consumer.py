"""One consumer under random schedules: `run(seed)` plays the faults of a seed on a virtual clock, with the rules of the guarantees checked
at every start and every settle, then heals everything and demands that all messages end.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from mqsdk.core import actions as act
from mqsdk.core.machine import Machine
from mqsdk.events import BreakerChanged, DeadLettered, Dropped, Freed, GapSeen, Halted
from mqsdk.spi import events as spi
from tests.simulation.broken import Broken
from tests.simulation.limit_model import LimitModel
from tests.simulation.world import BASE_S, MAX_S, World


@dataclass
class Task:
    job: act.Job
    queue: deque[spi.Record]
    process: int
    running: list[spi.Record] = field(default_factory=list)
    failures: list[tuple[spi.Record, act.Failure]] = field(default_factory=list)
    skipped: list[spi.Record] = field(default_factory=list)
    handled: list[spi.Record] = field(default_factory=list)
    began: float = 0.0
    is_recalled: bool = False


class Simulation(World):
    """The machine, its workers, and the checks."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, without: Collection[str] = ()) -> None:
        self.trace = trace
        super().__init__(seed, without)
        self.restart()

    def restart(self) -> None:
        super().restart()
        self.tasks: list[Task] = []
        self.waiting: deque[Task] = deque()
        self.machine = Machine(self.spec, self.tuning, self.rng)
        self.due = self.machine.due()
        self.limit_model = LimitModel(self.tuning)

    # --- workers ----------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        while self.waiting and sum(1 for task in self.tasks if task.running) < self.tuning.concurrency:
            task = self.waiting.popleft()
            task.began = self.now
            self.tasks.append(task)
            self._step(task)

    def _step(self, task: Task) -> None:
        """Start what comes next in a task, or end it."""
        job = task.job
        while task.queue:
            records = list(task.queue) if job.batch else [task.queue[0]]
            for _ in records:
                task.queue.popleft()
            is_failing = self.spec.ordered and any(record.key == records[0].key for record, _ in task.failures)
            if is_failing or task.is_recalled or not self.gates.get((self.index(job.partition), job.origin.epoch)):
                task.skipped += records
                continue
            for record in records:
                self._started(job, record)
            task.running = records
            seconds = 0.3 if self.rate("slow") else self.rng.choice((0.0001, 0.004))
            self.after(seconds, lambda: self._ended(task))
            if seconds > 0.1 and not job.batch and self.rng.random() < 0.8:
                self.after(0.005, lambda: self._take_back(task))
            return
        self.tasks.remove(task)
        self.inbox.append(act.Finished(job, task.failures, task.skipped, self.now - task.began))
        self._begin()

    def _started(self, job: act.Job, record: spi.Record) -> None:
        self.limit_model.started(job)
        self.halt_model.started(self.index(job.partition), record.position)
        number, epoch = self.index(job.partition), job.origin.epoch
        where, cursor = (number, record.position), self.cursors[number]
        if (number, epoch, record.position, self.process) in self.ok:
            raise Broken(f"{where} runs again after a success of the same epoch")
        if where in self.failed_at:
            attempt, moment = self.failed_at[where]
            if job.attempt == attempt + 1 and self.now < moment + min(BASE_S * 2 ** (attempt - 1), MAX_S) - 1e-9:
                raise Broken("retry before its backoff is over")
        if self.spec.sparse_bytes == 4096 and record.position in cursor.stored:
            raise Broken(f"{where} runs again although it was settled")
        if job.attempt > self.tuning.retry.attempts:
            raise Broken("too many attempts")
        if self.spec.ordered:
            self._check_order(job, record)

    def _check_order(self, job: act.Job, record: spi.Record) -> None:
        number, lane = self.index(job.partition), (job.partition.number, record.key)
        earlier = [one for one in self.cursors[number].records if one.key == record.key and one.position < record.position]
        together = {one.position for one in job.records} if job.batch else set()
        if late := [one.position for one in earlier if (number, one.position) not in self.final and one.position not in together]:
            raise Broken(f"overtake: {record.position} starts before {late} ended")
        if self.running_keys.get(lane) not in (None, job.token):
            raise Broken(f"overlap of {lane}")
        self.running_keys[lane] = job.token

    def _ended(self, task: Task) -> None:
        if task.process != self.process:
            return
        job, records = task.job, task.running
        for record in records:
            self.running_keys.pop((job.partition.number, record.key), None)
            self._outcome(task, record)
        task.running = []
        self._step(task)

    def _outcome(self, task: Task, record: spi.Record) -> None:
        job, where = task.job, (self.index(task.job.partition), record.position)
        is_poison = (record.position * 7 + len(self.cursors[0].records)) % 10 < self.rates["poison"] * 10
        if self.rate("reject"):
            task.failures.append((record, act.Failure("reject", "no")))
        elif is_poison or self.rate("fail"):
            after_s = 0.01 if self.rate("ask") else None
            if after_s is None and job.origin.epoch == self.cursors[where[0]].epoch:
                self.failed_at[where] = (job.attempt, self.now)
            else:
                self.failed_at.pop(where, None)
            task.failures.append((record, act.Failure("error", "ValueError: no", after_s)))
        else:
            self.final.add(where)
            task.handled.append(record)
            self.ok.add((where[0], job.origin.epoch, where[1], task.process))

    def _take_back(self, task: Task) -> None:
        if task.process == self.process and task.running and task.queue:
            handled = task.handled if self.rng.random() < 0.5 else []
            task.handled = []
            self.inbox.append(act.Returned(task.job, list(task.queue), handled))
            task.queue.clear()

    # --- the machine ------------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        events, self.inbox = self.inbox, []
        self.limit_model.fed(self.now, events)
        for event in events:
            self._tell_letters(event)
        actions = self.machine.feed(self.now, events)
        if self.trace is not None:
            self._show(events, actions)
        for action in actions:
            self._perform(action)
        if self.drain_by is not None and self.drained is None and self.now > self.drain_by:
            raise Broken("the drain did not end at its deadline")
        self.due = self.machine.due()
        self._check_limits()
        self._begin()

    def _show(self, events: list[Any], actions: list[act.Action]) -> None:
        assert self.trace is not None
        for mark, one in [*(("->", event) for event in events), *(("  <-", action) for action in actions)]:
            self.trace(f"{self.now:8.4f} {mark} {described(one)}")

    def _check_limits(self) -> None:
        """After every feed: so by the accounts themselves, a whole view is a third of what a feed costs."""
        accounts = self.machine._credits._accounts.values()
        records, size = sum([one.records for one in accounts]), sum([one.bytes for one in accounts])
        if records + sum([cursor.credit for cursor in self.cursors if cursor.owned]) > max(self.tuning.in_flight_records, self.limit):
            raise Broken("more in flight and allowed than the limit")
        if records < 0 or size < 0 or (records == 0) != (size == 0):
            raise Broken("in-flight counters are wrong")

    @property
    def limit(self) -> int:
        """A lowered limit cannot take back what is in flight."""
        return 100 if "retune" in self.faults else 0

    def _perform(self, action: act.Action) -> None:
        if isinstance(action, act.Run):
            job, number = action.job, self.index(action.job.partition)
            if self.drain_by is not None or not self.gates.get((number, job.origin.epoch)):
                raise Broken("a job is given out after drain began or under an ownership that is over")
            self.limit_model.given(job)
            self.halt_model.given(number)
            if self.tuning.retry.dlq_follow_key and number < self.partitions:
                for record in job.records:
                    self.letter_model.given(number, record.position, record.key)
            self.waiting.append(Task(job, deque(job.records), self.process))
        elif isinstance(action, act.Recall):
            for task in (*self.tasks, *self.waiting):
                task.is_recalled = True
        elif isinstance(action, act.Report) and isinstance(action.event, BreakerChanged):
            self.limit_model.reported(action.event)
        elif isinstance(action, act.Fence):
            number = self.index(action.partition)
            self.gates[number, action.epoch] = False
            if action.epoch == self.cursors[number].epoch:
                self.cursors[number].credit = 0
            else:  # what the old owner halted last is of no account: the next one has begun with what was saved
                self.halt_model.assigned(number, self.cursors[number])
        elif isinstance(action, act.Settle):
            self._settle(action.progress)
        elif isinstance(action, act.Credit):
            self.cursors[self.index(action.partition)].credit = action.records
        elif isinstance(action, act.Copy):
            self._copy(action)
        elif isinstance(action, act.AskLetters):
            self._read_letters()
        elif isinstance(action, act.Report) and isinstance(action.event, Halted | Freed):
            self._halted_or_freed(action.event)
        elif isinstance(action, act.Report) and isinstance(action.event, DeadLettered):
            self.letter_model.told(place(action.event.message_id), self.now, by_copy=True)
        elif isinstance(action, act.Report) and isinstance(action.event, Dropped):
            self.final.add(place(action.event.message_id))
        elif isinstance(action, act.Report) and isinstance(action.event, GapSeen):
            number = self.index(spi.Partition(action.event.topic, action.event.partition))
            self.final |= {(number, position) for position in range(action.event.start, action.event.stop)}
            self.halt_model.lost(number, range(action.event.start, action.event.stop))
        elif isinstance(action, act.Drained):
            self.drained = action
            if not self.ending:
                self._fault_crash()

    def _halted_or_freed(self, event: Halted | Freed) -> None:
        number = event.partition + (self.partitions if event.redriven else 0)
        self.halt_model.reported(number, event)
        self.failed_at.pop((number, event.position), None)  # a release begins with the first attempt

    def _tell_letters(self, event: object) -> None:
        """What the machine learns with this event."""
        if isinstance(event, spi.Assigned):
            self.letter_model.assigned(self.index(event.partition), self.now)
        elif isinstance(event, spi.Batch):
            for record in event.records:
                self.letter_model.delivered(self.index(event.partition), record.position, self.now)
        elif isinstance(event, act.Letters):
            for where in self.readings[event.asked_at]:
                self.letter_model.told(where, self.now)

    def _copy(self, copy: act.Copy) -> None:
        where, process = place(str(copy.record.id)), self.process
        outcome: spi.Outcome = spi.Stored(1)
        if self.rate("copy"):
            outcome = self.rng.choice((spi.Rejected("full", "no room", True), spi.Unknown("no answer")))

        def answer() -> None:
            if isinstance(outcome, spi.Stored):
                self.final.add(where)
                self.letter_model.stored(where, copy.record.key, self.now)
            self._late(process, act.CopyDone(copy.token, outcome))

        self.after(self.rng.choice((0.0, 0.02)), answer)

    # --- a whole run ------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """To the next moment at which something happens."""
        due = self.due
        if due is not None and (not self.heap or due <= self.heap[0][0]):
            self.now = max(self.now, due)
            self._feed()
            return
        self.now, _, call = heapq.heappop(self.heap)
        call()
        if self.inbox and (not self.heap or self.rng.random() < 0.5):
            self._feed()

    def _until(self, is_done: Callable[[], bool], what: str) -> None:
        for _ in range(20_000):
            if is_done():
                return
            if self.now > 300:
                break
            self._advance()
        raise Broken(f"STUCK: {what}")

    def run(self) -> None:
        everything = {(number, record.position) for number, cursor in enumerate(self.cursors) for record in cursor.records}
        self._until(
            lambda: self.healed and self.drain_by is None and everything <= self.final and self._is_settled(), "not all messages ended"
        )
        self.ending = True
        self._drain(5)
        self._feed()  # before its deadline: what is next may be seconds away
        self._until(lambda: self.drained is not None, "not drained")
        if self.drained != act.Drained(0, 0) or self.machine.view().records:
            raise Broken("drain left something")

    def _is_settled(self) -> bool:
        return all(cursor.position > cursor.records[-1].position for cursor in self.cursors)


def place(record_id: str) -> tuple[int, int]:
    """Cursor and position of a record."""
    index, _, position = record_id.partition(":")
    return int(index), int(position)


def described(one: Any) -> str:
    """An event or an action in a line, its records by their positions."""
    if isinstance(one, act.Run):
        return f"Run job {one.job.token} of {one.job.partition.topic}/{one.job.partition.number}, epoch {one.job.origin.epoch}, " + (
            f"attempt {one.job.attempt}: {[record.position for record in one.job.records]}"
        )
    if isinstance(one, act.Finished):
        failed = [(record.position, failure.kind) for record, failure in one.failures]
        return f"Finished job {one.job.token}: failed {failed}, skipped {[record.position for record in one.skipped]}"
    if isinstance(one, act.Returned):
        return f"Returned of job {one.job.token}: {[record.position for record in one.records]}"
    if isinstance(one, spi.Batch):
        return f"Batch of {one.partition.topic}/{one.partition.number}: {[(record.position, record.key) for record in one.records]}"
    return repr(one)


def run(seed: int, trace: Callable[[str], None] | None = None, without: Collection[str] = ()) -> None:
    """trace: is told what is fed and what comes of it, line by line. without: faults that do not happen."""
    try:
        Simulation(seed, trace, without).run()
    except Exception as error:
        raise Broken(f"seed {seed}: {error}") from error
