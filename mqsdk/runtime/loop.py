"""The I/O thread of one consumer: poll -> machine.feed -> perform. The only thread that touches the adapter's Consumer and the machine.

Handlers never run here, so an ownership stays alive however long they take. `step()` does one round without a thread: tests drive it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Protocol

from mqsdk.core.actions import (
    Action,
    AskLetters,
    Cancel,
    Copy,
    CopyDone,
    Credit,
    Cut,
    CutPassed,
    CutsBegin,
    Drain,
    Drained,
    Fence,
    Finished,
    Letters,
    Pause,
    Recall,
    Release,
    ReleaseAs,
    Released,
    Report,
    Retuned,
    Run,
    Settle,
    Spec,
    Tuning,
)
from mqsdk.core.machine import Machine, MachineEvent, MachineView
from mqsdk.errors import BackendError, MqError, StateError
from mqsdk.events import Event, LinkChanged, OwnershipChanged
from mqsdk.message import Origin
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.gates import recalled
from mqsdk.runtime.letters import LetterWatch
from mqsdk.runtime.observe import log_ownership
from mqsdk.runtime.workers import Gate, Task, Workers
from mqsdk.spi import Assigned, Consumer, ConsumerEvent, Link, Lost, Outcome, Partition, Record, Renewed, Revoking, Settled, Unknown

if TYPE_CHECKING:
    from mqsdk.runtime.inbox import Inbox

log = logging.getLogger("mqsdk.consumer")

POLL_RECORDS = 500
LONGEST_POLL_S = 1.0
RESTART_FIRST_S, RESTART_LONGEST_S = 1.0, 30.0
LAST_ANSWER_S = 1.0  # what the answer to a last settle may take after the deadline of an exchange


class Copier(Protocol):
    """Stores the copy of a dead letter; `done` may be called from any thread, at once or later."""

    def __call__(self, copy: Copy, done: Callable[[Outcome], None], /) -> None: ...


class _Results:
    """What workers append to; wakes the I/O thread only while it sleeps, so a busy loop costs its workers no system call."""

    def __init__(self) -> None:
        self.items: deque[MachineEvent] = deque()
        self.sleeping = False
        self.wake: Callable[[], None] = lambda: None

    def append(self, item: MachineEvent, /) -> None:
        self.items.append(item)
        if self.sleeping:
            self.wake()

    def take(self) -> list[MachineEvent]:
        taken: list[MachineEvent] = []
        try:
            while True:
                taken.append(self.items.popleft())
        except IndexError:
            return taken


class _Exchange:
    """asked: what was asked back already. done: called when the old consumer is closed."""

    def __init__(self, deadline: float, done: Callable[[], None]) -> None:
        self.deadline = deadline
        self.done = [done]
        self.asked: set[tuple[Partition, int]] = set()


class ConsumerLoop:
    """Runs one consumer. What stands under "control, any thread" may be called from any; the rest is the loop's own."""

    def __init__(
        self,
        *,
        name: str,
        machine: Machine,
        connect: Callable[[], Consumer],
        make_workers: Callable[[_Results], Workers],
        copier: Copier,
        cutter: Callable[[Cut], None],
        clock: Clock,
        observe: Callable[[Event], None],
        tuning: Tuning,
        lease_s: float,
        make_letters: Callable[[Callable[[Letters], None]], LetterWatch],
        inbox: Inbox | None = None,
    ) -> None:
        self.name = name
        self._machine = machine
        self._connect = connect
        self._results = _Results()
        self._results.wake = self._wake
        self._workers = make_workers(self._results)
        try:
            self._consumer = connect()
        except BaseException:
            self._workers.close(clock.mono())
            raise
        self._copier = copier
        self._letters = make_letters(self._tell)
        self._inbox = inbox
        self._cutter = cutter
        self._clock = clock
        self._observe = observe
        self._tuning = tuning
        self._longest_poll_s = min(LONGEST_POLL_S, lease_s / 3)
        self._gates: dict[tuple[Partition, int], Gate] = {}
        self._handed_back: set[tuple[Partition, int]] = set()  # whose final settle has no answer yet
        self._asked_exchanges: deque[_Exchange] = deque()
        self._exchange: _Exchange | None = None
        self._tokens = count()
        self._releases: dict[int, Future[Released]] = {}
        self._drained: Drained | None = None
        self._closed = False
        self._asked_restart: MqError | None = None
        self._broken = False  # ownerships were dropped since the last connect; in a drain their last settles are not known to be stored
        self._restarts = 0
        self._owned_now: list[OwnershipChanged] = []
        self.places: dict[int, int] = {}  # first unsettled position by partition, as it was at the last restart or exchange
        self.joined = threading.Event()
        self.finished = threading.Event()
        self.failure: str = ""
        self.behind = machine.spec.behind  # older clusters that its messages wait for now
        self.paused = False  # what was asked for last; the machine hears of it in the loop's next round

    # --- control, any thread ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._consumer.wake()

    def _tell(self, event: MachineEvent) -> None:
        self._results.append(event)
        self._consumer.wake()

    def retune(self, tuning: Tuning) -> None:
        self._tell(Retuned(tuning))

    def pause(self, paused: bool) -> None:
        self.paused = paused
        self._tell(Pause(paused))

    def cut_passed(self, token: int) -> None:
        self._tell(CutPassed(token))

    def wait_for(self, behind: tuple[int, ...]) -> None:
        """From now on messages wait for these older clusters, as in Spec.behind; () for none. `behind` says so once it is done."""
        self._tell(CutsBegin(behind))

    def drain(self, deadline: float) -> None:
        """Start nothing new, settle what ends; `finished` is set when it is over, at `deadline` (monotonic seconds) at the latest."""
        for gate in list(self._gates.values()):  # at once, not at the loop's next round; the machine's Fence follows
            gate.valid_until = 0.0
        self._tell(Drain(deadline))

    def release(self, outcome: ReleaseAs, keys: Sequence[bytes | None] | None) -> Future[Released]:
        """Free halted messages of these keys, of all with None. The future ends when what it did is stored; not at all if the loop ends."""
        done: Future[Released] = Future()
        token = next(self._tokens)
        self._releases[token] = done
        self._tell(Release(token, outcome, None if keys is None else tuple(keys)))
        return done

    def exchange(self, deadline: float, done: Callable[[], None]) -> None:
        """Hand everything back in order and go on with what `connect` gives then: the cluster has another client.

        Handlers that still run at `deadline` (monotonic seconds) keep their keys blocked in this process until they return. done: called
        when the old consumer is closed.
        """
        self._asked_exchanges.append(_Exchange(deadline, done))
        self._consumer.wake()

    def restart(self, why: MqError) -> None:
        """Drop every ownership and connect anew, as after a failure of the adapter's consumer."""
        self._asked_restart = why
        self._consumer.wake()

    @property
    def spec(self) -> Spec:
        return self._machine.spec

    def view(self) -> MachineView:
        return self._machine.view()

    @property
    def inbox_repeats(self) -> int:
        """Messages that its inbox knew."""
        return 0 if self._inbox is None else self._inbox.repeats

    def is_working(self) -> bool:
        """Whether a handler runs that has time left."""
        now = self._clock.mono()
        return any(running.call.started and now < running.call.deadline for running in self._workers.running())

    @property
    def problem(self) -> str:
        """What keeps it from starting messages although it runs, "" for nothing."""
        return self._letters.problem

    def running(self) -> list[tuple[float, Record, Origin, str]]:
        """(started, record, origin, stack) of every running call, oldest first."""
        found = [
            (running.call.started, running.call.record, running.call.origin, self._workers.stack(running))
            for running in self._workers.running()
            if running.call.started and running.call.record is not None
        ]
        return sorted(found, key=lambda item: item[0])

    # --- the thread -------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Thread main: steps until drained. An error, ours or the adapter's, restarts the consumer with backoff; it never dies silently."""
        while self._drained is None:
            try:
                self._step_or_restart()
            except Exception:
                self._clock.sleep(RESTART_FIRST_S)  # the restart itself failed: the next round fails, and restarts, again
        self.finished.set()

    def _step_or_restart(self) -> None:
        try:
            self.step(self._longest_poll_s)
        except Exception as error:
            self._restart(error)

    def step(self, longest_s: float) -> bool:
        """One round: wait for something to happen, decide, act. False when nothing happened and nothing was due."""
        asked, self._asked_restart = self._asked_restart, None
        if asked is not None:
            self._restart(asked)
            return True
        events = self._gather(longest_s)
        self._machine.set_wall_offset(self._clock.wall_ms() / 1000 - self._clock.mono())
        actions = self._machine.feed(self._clock.mono(), events)
        self._perform(actions)
        while self._asked_exchanges:
            self._begin_exchange(self._asked_exchanges.popleft())
        if self._exchange is not None:
            self._step_of_exchange(self._exchange)
        self.joined.set()
        if self._drained is not None:
            self.finished.set()
        return bool(events or actions or self._results.items)

    def due(self) -> float | None:
        """Monotonic time at which `step` has something to do even if nothing happens; None: never."""
        now = self._clock.mono()
        scan = self._workers.next_scan(now, self._tuning.stuck_after_s)
        moments = (self._machine.due(), None if scan is None else now + scan)
        return min((moment for moment in moments if moment is not None), default=None)

    def _gather(self, longest_s: float) -> list[MachineEvent]:
        results = self._results
        results.sleeping = True
        timeout = 0.0 if results.items else self._timeout(longest_s)
        polled = self._consumer.poll(POLL_RECORDS, timeout)
        results.sleeping = False
        for event in polled:
            self._note(event)
        for event in polled:
            if isinstance(event, Renewed):  # last: it is no news for what is lost
                self._renew(event.valid_until)
        if self._owned_now:
            log_ownership(self._owned_now)
            self._owned_now = []
        events: list[MachineEvent] = [*polled, *results.take()]
        self._note_ends(events)
        events += self._workers.scan(self._clock.mono(), self._tuning.stuck_after_s)
        return events

    def _timeout(self, longest_s: float) -> float:
        due = self.due()
        return longest_s if due is None else max(0.0, min(longest_s, due - self._clock.mono()))

    def _note_ends(self, events: list[MachineEvent]) -> None:
        ended = sum(1 for event in events if type(event) is Finished)
        if ended:
            self._workers.ended(ended)
        for event in events:
            if type(event) is CutsBegin:
                self.behind = event.behind
            elif type(event) is Retuned:
                self._tuning = event.tuning
                self._workers.resize(event.tuning.concurrency)

    def _note(self, event: ConsumerEvent) -> None:
        """Keep the start gates, and tell observers what a person would want to see."""
        if isinstance(event, Assigned):
            self._gates[event.partition, event.epoch] = Gate(event.valid_until)
            self._owned(event.partition, event.epoch, "assigned")
        elif isinstance(event, Revoking):
            self._owned(event.partition, event.epoch, "revoking")
        elif isinstance(event, Lost):
            # At once: what comes with it may renew what is left, and workers must not take that for this one before the machine's Fence.
            gate = self._gates.get((event.partition, event.epoch))
            if gate is not None:
                gate.valid_until = 0.0
            self._owned(event.partition, event.epoch, "lost")
        elif isinstance(event, Settled):
            self._handed_back.discard((event.partition, event.epoch))
        elif isinstance(event, Link):
            self._observe(LinkChanged(self._machine.spec.cluster, event.up, str(event.error) if event.error else ""))

    def _renew(self, valid_until: float) -> None:
        for gate in self._gates.values():
            if gate.valid_until:  # a shut gate stays shut
                gate.valid_until = valid_until

    def _owned(self, partition: Partition, epoch: int, change: str) -> None:
        spec = self._machine.spec
        changed = OwnershipChanged(partition.topic, spec.group, spec.cluster, partition.number, epoch, change)
        self._owned_now.append(changed)
        self._observe(changed)

    # --- actions ----------------------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        # First what no adapter can make fail: the machine counts these jobs as running, and one that is never started would be so for ever.
        runs = [action for action in actions if type(action) is Run]
        for run in runs:
            self._start(run)
        if runs:
            self._workers.flush()
        for action in actions:
            if type(action) is Credit:
                self._consumer.credit(action.partition, action.records, action.bytes)
            elif type(action) is Settle:
                self._settle(action)
            elif type(action) is not Run:
                self._perform_rare(action)

    def _start(self, action: Run) -> None:
        job = action.job
        gate = self._gates.get((job.partition, job.origin.epoch)) or Gate(0.0)
        timeout_s = self._tuning.timeout_s
        self._workers.start(Task(job, gate, float("inf") if timeout_s is None else timeout_s))

    def _settle(self, action: Settle) -> None:
        progress = action.progress
        try:
            self._consumer.settle(progress)
        except BackendError as error:
            self._results.append(Settled(progress.partition, progress.epoch, progress.token, "failed", str(error)))
        if progress.final:
            self._gates.pop((progress.partition, progress.epoch), None)
            self._handed_back.add((progress.partition, progress.epoch))
            self.places[progress.partition.number] = progress.watermark

    def _perform_rare(self, action: Action) -> None:
        if isinstance(action, Fence):
            gate = self._gates.get((action.partition, action.epoch))
            if gate is not None:
                gate.valid_until = 0.0
            if action.cancel:
                self._workers.cancel_ownership(action.partition, action.epoch)
                self._gates.pop((action.partition, action.epoch), None)
        elif isinstance(action, Cancel):
            self._workers.cancel_record(action.job, action.record)
        elif isinstance(action, Recall):
            self._gates = recalled(self._gates)
        elif isinstance(action, Copy):
            self._copy(action)
        elif isinstance(action, Cut):
            self._cutter(action)
        elif isinstance(action, Report):
            self._observe(action.event)
        elif isinstance(action, Released):
            self._releases.pop(action.token).set_result(action)
        elif isinstance(action, AskLetters):
            self._letters.ask()
        elif isinstance(action, Drained):
            self._drained = action

    def _copy(self, action: Copy) -> None:
        token = action.token
        try:
            self._copier(action, lambda outcome: self._tell(CopyDone(token, outcome)))
        except MqError as error:
            self._tell(CopyDone(token, Unknown(error.what)))

    def _lose_all(self) -> None:
        """Drop every ownership, those handed back without an answer too.

        All at once: what is left to one partition while another is lost would be a call to an adapter that may just have failed.
        """
        self.places.update({view.partition.number: view.watermark for view in self._machine.view().partitions})
        over, self._handed_back = [*self._gates, *self._handed_back], set()
        self._perform(self._machine.feed(self._clock.mono(), [Lost(partition, epoch) for partition, epoch in over]))

    # --- another client of the cluster --------------------------------------------------------------------------------------------

    def _begin_exchange(self, asked: _Exchange) -> None:
        """One that comes during another one is done with it: what is connected then is the newest client."""
        if self._exchange is None:
            self._exchange = asked
        else:
            self._exchange.done += asked.done

    def _step_of_exchange(self, exchange: _Exchange) -> None:
        """Ask for what is owned, once each; when all of it is handed back, or at the deadline, connect anew."""
        now = self._clock.mono()
        asked = [Revoking(*owned, exchange.deadline) for owned in self._gates if owned not in exchange.asked]
        if asked:
            exchange.asked.update((one.partition, one.epoch) for one in asked)
            self._perform(self._machine.feed(now, asked))
        if self._drained is not None or ((self._gates or self._handed_back) and now < exchange.deadline + LAST_ANSWER_S):
            return
        self._exchange = None
        self._lose_all()
        self._close_consumer(now + LAST_ANSWER_S)
        for done in exchange.done:
            done()
        log.info("consumer %s goes on with another client of cluster %s", self.name, self._machine.spec.cluster)
        self._reconnect()

    # --- ends -------------------------------------------------------------------------------------------------------------------

    def _restart(self, error: Exception) -> None:
        """The adapter's consumer (or this loop) failed: drop every ownership, connect anew after a backoff."""
        wait = min(RESTART_FIRST_S * 2.0 ** min(self._restarts, 10), RESTART_LONGEST_S)
        self._restarts += 1
        self._broken = True
        self.failure = f"{type(error).__name__}: {error}" if isinstance(error, MqError) else type(error).__name__
        told = isinstance(error, BackendError | StateError)
        log.error("consumer %s failed and is restarted in %.0f s", self.name, wait, exc_info=not told)
        self._lose_all()
        self._close_consumer(self._clock.mono() + wait)
        self._wait_before_restart(wait)
        if self._drained is None:
            self._reconnect()

    def _reconnect(self) -> None:
        try:
            self._consumer = self._connect()
            self._restarts, self._broken, self.failure = 0, False, ""
        except Exception as error:  # the closed consumer refuses the next poll, which leads here again after a longer wait
            log.error("consumer %s cannot connect: %s", self.name, type(error).__name__)

    def _wait_before_restart(self, wait: float) -> None:
        end = self._clock.mono() + wait
        while self._drained is None and (left := end - self._clock.mono()) > 0:
            self._clock.sleep(min(left, 0.1))
            events = self._results.take()
            self._note_ends(events)
            self._perform(self._machine.feed(self._clock.mono(), events))

    def _close_consumer(self, deadline: float) -> None:
        try:
            self._consumer.close(deadline)
        except Exception as error:
            log.warning("consumer %s: closing failed: %s", self.name, type(error).__name__)

    def close(self, deadline: float) -> tuple[int, bool]:
        """After the thread has ended: stop workers, leave the group. (handlers still running, clean)."""
        if self._closed:
            return 0, True
        self._closed = True
        drained = self._drained or Drained(0, unsettled=1)
        self._letters.close(max(0.0, deadline - self._clock.mono()))
        still = self._workers.close(min(deadline, self._clock.mono() + 1.0) if drained.unfinished else deadline)
        if self._inbox is not None:
            self._inbox.close()
        self._consumer.close(deadline)
        return max(drained.unfinished, still), drained.unsettled == 0 and not self._broken
