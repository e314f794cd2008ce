"""The backends of the simulation: those of `mqsdk.testing`, whose settles and publishes fail as the seed wants and tell the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mqsdk.spi import (
    Capabilities,
    ConsumerEvent,
    EventSink,
    NewRecord,
    Outcome,
    Producer,
    Progress,
    Published,
    Rejected,
    Settled,
    Stored,
    Subscription,
    Unknown,
)
from mqsdk.testing.simconsumer import SimConsumer
from mqsdk.testing.simgroup import Cursor, Group
from mqsdk.testing.simlog import SimBackend, SimLog, SimProducer
from mqsdk.testing.simqueue import QueueConsumer, SimQueue
from tests.simulation.schedule import Killed, Thread

if TYPE_CHECKING:
    from tests.simulation.process import Process

COPY = "copy"  # the header that tells apart what was stored more than once
FULL = Rejected("backend", "its disk is full", retryable=True)


class _Hooks(SimConsumer):
    """What both kinds of consumers have in common here. process: whose it is; cluster: at which one."""

    process: Process
    cluster: str
    thread: Thread | None = None  # that polls it

    def wake(self) -> None:
        if self.thread is None:
            self.thread = self.process.thread_of(self)
        if self.thread is not None:
            self.thread.wake()

    def nudge(self) -> None:
        self.wake()

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        self.process.world.schedule.spin()
        return super().poll(max_records, timeout_s)

    @property
    def has_news(self) -> bool:
        """A poll would not be empty."""
        return bool(self._events) or self._may_deliver()

    def _may_deliver(self) -> bool:
        return any(one.records > 0 and not one.revoked and one.position < one.cursor.log.end for one in self._owned.values())

    def lost(self, cursor: Cursor) -> None:
        self.process.rules.lost(self.process, cursor.partition)
        super().lost(cursor)

    def settle(self, progress: Progress) -> None:
        world = self.process.world
        claimed = self.process.rules.settling(self.process, self, progress)
        fails = world.happens("settle")
        if fails and world.rng.random() < 0.5:
            self._answer(Settled(progress.partition, progress.epoch, progress.token, "failed", "no answer"))
            return
        answer = self._settle(progress)
        if answer.outcome == "stored":
            self.process.rules.settled(self.process, self._group, progress, claimed)
        self._answer(answer._replace(outcome="failed") if fails and not progress.final else answer)

    def _answer(self, answer: Settled) -> None:
        world = self.process.world
        if not world.happens("answer"):
            self._events.append(answer)
            return

        def come() -> None:
            self._events.append(answer)
            self.wake()

        world.schedule.after(world.rng.choice((0.02, 0.3)), come)


class LogConsumer(_Hooks):
    def _deliver(self, owned: Any, budget: int, events: list[ConsumerEvent]) -> int:
        if self.process.world.happens("repeat"):
            owned.position = min(owned.position, max(owned.cursor.watermark, owned.cursor.log.base, owned.position - 2))
        return super()._deliver(owned, budget, events)


class ConsumerOfQueue(_Hooks, QueueConsumer):
    def _may_deliver(self) -> bool:
        return any(self._due())


class _Producing(Producer):
    """inner: stores at once and tells `caught` what became of it."""

    def __init__(self, process: Process, backend: SimBackend, events: EventSink) -> None:
        self._process = process
        self._world = process.world
        self._events = events
        self._caught: list[Published] = []
        self._inner = SimProducer(backend, self)
        self._cluster = backend.name
        self._is_inline = backend.capabilities.publish == "inline"
        self._in_order = backend.capabilities.rejects_in_order
        self._stored_at = 0.0

    def put(self, event: Any, /) -> None:
        """Of the inner producer."""
        self._caught.append(event)

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        if self._world.cuts_off(self._process, batch):
            raise Killed
        drawn = self._draw(batch)
        if self._is_inline:
            for record, outcome, is_stored in drawn:
                self._events.put(Published(record.token, self._become(record, outcome, is_stored)))
            return
        schedule, rng = self._world.schedule, self._world.rng
        # One connection: what is sent later is stored later, and what is sent is stored although its process is gone.
        self._stored_at = max(self._stored_at, schedule.now + rng.choice((0.0005, 0.003)))
        schedule.at(self._stored_at, lambda: self._arrived(drawn))

    def _arrived(self, drawn: list[tuple[NewRecord, Outcome | None, bool]]) -> None:
        answers = [Published(record.token, self._become(record, outcome, is_stored)) for record, outcome, is_stored in drawn]

        def answer() -> None:
            for one in answers:
                self._events.put(one)

        self._world.schedule.after(self._world.rng.choice((0.0, 0.002)), answer)

    def _draw(self, batch: Sequence[NewRecord]) -> list[tuple[NewRecord, Outcome | None, bool]]:
        """(record, what is answered if not Stored, whether it is stored). Nothing passes an earlier one that is not stored.

        Of its partition, or where the backend promises less, of its key: an adapter keeps at most one of a key under way.
        """
        failed: dict[Any, Outcome] = {}
        found: list[tuple[NewRecord, Outcome | None, bool]] = []
        for record in batch:
            lane = record.partition if self._in_order else (record.partition, record.key)
            outcome, is_stored = failed.get(lane), False
            if outcome is None:
                outcome, is_stored = self._outcome()
            if not is_stored and outcome is not None:
                failed[lane] = outcome
            found.append((record, outcome, is_stored))
        return found

    def _outcome(self) -> tuple[Outcome | None, bool]:
        world = self._world
        if not world.happens("publish"):
            return None, True
        return world.rng.choice(((FULL, False), (Unknown("no answer"), False), (Unknown("no answer"), True)))

    def _become(self, record: NewRecord, outcome: Outcome | None, is_stored: bool) -> Outcome:
        if not is_stored:
            assert outcome is not None
            return outcome
        rules = self._process.rules
        number = rules.next_copy()
        self._caught.clear()
        self._inner.publish([record._replace(headers=((COPY, str(number)),))], 0.0)
        told = self._caught[0].outcome
        if isinstance(told, Stored):
            rules.stored(self._cluster, record, number, outcome is not None)
        return outcome or told


class LogBackend(SimBackend):
    kind = "log"

    def __init__(self, process: Process, store: SimLog, name: str, capabilities: Capabilities) -> None:
        super().__init__(store, name=name, capabilities=capabilities)
        self._process = process

    def producer(self, events: EventSink) -> Producer:  # type: ignore[override]
        self._check_open()
        return _Producing(self._process, self, events)

    def _made(self, subscription: Subscription, groups: Sequence[Group], forget: Callable[[SimConsumer], None]) -> SimConsumer:
        return _hooked(LogConsumer(self.store, subscription, groups, self.capabilities, forget), self._process, self.name)


class QueueBackend(SimQueue):
    kind = "queue"

    def __init__(self, process: Process, store: SimLog, name: str) -> None:
        super().__init__(store, name=name, in_order=False)
        self._process = process

    def producer(self, events: EventSink) -> Producer:  # type: ignore[override]
        self._check_open()
        return _Producing(self._process, self, events)

    def _made(self, subscription: Subscription, groups: Sequence[Group], forget: Callable[[SimConsumer], None]) -> QueueConsumer:
        made = ConsumerOfQueue(self.store, subscription, groups, self.capabilities, forget, in_order=False)
        _hooked(made, self._process, self.name)
        return made


def _hooked(consumer: _Hooks, process: Process, cluster: str) -> SimConsumer:
    consumer.process, consumer.cluster = process, cluster
    return consumer
