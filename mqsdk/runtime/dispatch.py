"""What a mover holds until it is due, and where it goes then: the next step or its target, confirmed, and never behind one bad target."""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from mqsdk.core import deadletter, delay, window
from mqsdk.core.partitioner import partition_of
from mqsdk.core.shelf import Held
from mqsdk.events import DeadLettered, Event
from mqsdk.message import Origin
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.targets import RETRY_S, Targets, Way, publish
from mqsdk.spi import NewRecord, Outcome, Partition, Producer, ProducerEvent, Published, Rejected, Stored, Unknown

log = logging.getLogger("mqsdk.delay")

# Far beyond what a healthy cluster takes on a machine that is overloaded: a copy that is given up too early is stored and repeated, which
# adds to the load.
PUBLISH_S = 30.0
ANSWER_S = 30.0  # an adapter answers by the deadline; this is for one that never does
AT_ONCE = 1000  # published before answers are heard again, and the lease is kept
# A target with so much under way, or that has answered nothing for so long while others have, gets nothing more: it must not use up what
# a mover may hold.
FLYING_PER_TARGET, FLYING = 2000, 8000
SILENT_S = 3.0
PENDING_MS = 50  # until a target that is being looked up is tried again
AGAIN_MS = 1000  # after the mover's own cluster took nothing
MOST_FAILING = 4096
NO_TARGET = Rejected("invalid", "it names no topic that it is for")

Copy = tuple[Producer, NewRecord]


class _Flight(NamedTuple):
    """One copy under way. kind: target (in the cluster and, when due, the topic that it is for), hop (a step in the mover's own cluster).

    give_up: monotonic seconds. told: what observers hear when it is stored.
    """

    held: Held
    kind: str
    give_up: float
    told: Event | None = None


class _Trouble:
    """A target that takes nothing. since: the first failure. retry_at: when it is tried again. Monotonic seconds."""

    __slots__ = ("retry_at", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.retry_at = now


class _Traffic:
    """What is under way to one target. heard: when it answered last, or its first one went out. parked: what it is too busy for.

    probe_at: when one of the parked may find out whether others are answered meanwhile.
    """

    __slots__ = ("flying", "heard", "parked", "probe_at")

    def __init__(self, now: float) -> None:
        self.flying = 0
        self.heard = now
        self.probe_at = now + SILENT_S
        self.parked: deque[Held] = deque()

    def is_silent(self, heard: float) -> bool:
        """heard: when anybody has answered. While nobody does, it is not the target."""
        return self.flying > 0 and heard - self.heard > SILENT_S

    def room(self, heard: float) -> int:
        """How many of those that are parked may go on: all of them, another way, from one that answers nothing."""
        if self.is_silent(heard):
            return len(self.parked)
        return min(len(self.parked), FLYING_PER_TARGET - self.flying) if self.flying <= FLYING_PER_TARGET // 2 else 0


class Sink:
    """Results of all producers; any thread."""

    def __init__(self) -> None:
        self.items: deque[Published] = deque()
        self.sleeping = False
        self.wake: Callable[[], None] = lambda: None

    def put(self, event: ProducerEvent, /) -> None:
        if isinstance(event, Published):
            self.items.append(event)
            if self.sleeping:
                self.wake()


class Dispatch:
    """Of one mover, and used by its thread. own: name of its cluster."""

    def __init__(self, own: str, targets: Targets, sink: Sink, clock: Clock, observe: Callable[[Event], None]) -> None:
        self._own = own
        self._targets = targets
        self._sink = sink
        self._clock = clock
        self._observe = observe
        self._waiting: list[tuple[int, int, Held]] = []  # a heap by time, then by the order of reading
        self._serials = count()
        self._tokens = count()
        self._flights: dict[int, _Flight] = {}  # in the order of their deadlines
        self._traffic: dict[str, _Traffic] = {}
        self._trouble: dict[str, _Trouble] = {}
        self._pending: dict[str, float] = {}  # topics that are being looked up, and since when
        self._heard = clock.mono()  # the last answer of anybody

    def put(self, held: Held) -> None:
        """Keep it until its time."""
        heapq.heappush(self._waiting, (held.until_ms, next(self._serials), held))

    def drop_ended(self) -> None:
        """Forget what belongs to shelves that are not owned any more."""
        self._waiting = [item for item in self._waiting if not item[2].shelf.ending]
        heapq.heapify(self._waiting)
        for traffic in self._traffic.values():
            traffic.parked = deque(held for held in traffic.parked if not held.shelf.ending)

    def next_ms(self) -> int | None:
        """When the next one is due, wall clock in milliseconds."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def is_full(self) -> bool:
        """Nothing more is published before an answer comes."""
        return len(self._flights) >= FLYING

    def move(self) -> int:
        """Publish what is due; how many."""
        now, now_ms = self._clock.mono(), self._clock.wall_ms()
        self._take_up_parked(now)
        batches: dict[Producer, list[NewRecord]] = {}
        late: list[Held] = []
        for _ in range(AT_ONCE):
            if not self._waiting or self._waiting[0][0] > now_ms or self.is_full:
                break
            held = heapq.heappop(self._waiting)[2]
            if held.shelf.ending:
                continue
            if self._is_parked(held):
                continue
            copy = self._copy(held, now, now_ms)
            if copy is None:
                late.append(held)
            else:
                batches.setdefault(copy[0], []).append(copy[1])
        for held in late:  # together, so that they keep their order
            held.until_ms = max(held.until_ms, now_ms + PENDING_MS)
            self.put(held)
        for producer, batch in batches.items():
            publish(producer, batch, now + PUBLISH_S, self._sink)
        return sum(map(len, batches.values()))

    def _take_up_parked(self, now: float) -> None:
        for traffic in self._traffic.values():
            room = traffic.room(self._heard)
            for _ in range(room):
                self.put(traffic.parked.popleft())
            if not room and traffic.parked and now >= max(traffic.probe_at, traffic.heard + SILENT_S):
                traffic.probe_at = now + RETRY_S
                held = traffic.parked.popleft()
                held.goes_around = True
                self.put(held)

    def _is_parked(self, held: Held) -> bool:
        """Behind others of a target that is busy; in order."""
        is_free = held.waiting is None or held.refusal is not None or held.goes_around
        traffic = None if held.waiting is None or is_free else self._traffic.get(held.waiting.topic)
        if traffic is None or traffic.flying < FLYING_PER_TARGET or traffic.is_silent(self._heard):
            return False
        traffic.parked.append(held)
        return True

    def _copy(self, held: Held, now: float, now_ms: int) -> Copy | None:
        """Where it goes now, and as what; None when that is not known yet."""
        waiting = held.waiting
        if waiting is None:
            return self._dead(held, NO_TARGET, now, now_ms)
        if held.refusal is not None:
            return self._failed(held, waiting, held.refusal, now, now_ms)
        if held.goes_around:
            return self._again(held, waiting, now, now_ms)
        trouble, traffic = self._trouble.get(waiting.topic), self._traffic.get(waiting.topic)
        if (trouble is not None and now < trouble.retry_at) or (traffic is not None and traffic.is_silent(self._heard)):
            return self._again(held, waiting, now, now_ms)
        way = self._targets.find(waiting.topic)
        if isinstance(way, Rejected):
            self._pending.pop(waiting.topic, None)
            return self._failed(held, waiting, way, now, now_ms)
        if way is None:
            return self._again(held, waiting, now, now_ms) if self._pends_long(waiting.topic, now) else None
        self._pending.pop(waiting.topic, None)
        if trouble is not None:
            trouble.retry_at = now + RETRY_S  # this one finds out, the others wait for its answer
        return self._onward(held, waiting, way, now, now_ms)

    def _pends_long(self, topic: str, now: float) -> bool:
        if len(self._pending) >= MOST_FAILING:
            self._pending = {}
        return now - self._pending.setdefault(topic, now) > SILENT_S

    def _onward(self, held: Held, waiting: delay.Waiting, way: Way, now: float, now_ms: int) -> Copy | None:
        """To the topic when it is due, or at once where the cluster delays by itself; else to the next step."""
        record = held.record
        if waiting.due_ms <= now_ms or way.delay == "native":
            number = waiting.partition % way.partitions if record.key is None else partition_of(record.key, way.partitions)
            place = Partition(waiting.topic, number)
            return way.producer, self._new(held, "target", place, delay.original(record.extra), now, waiting.due_ms)
        hop = delay.next_hop(now_ms, waiting.due_ms)
        if way.steps and way.cluster != self._own:
            return way.producer, self._step(held, waiting, way, hop, "target", now)
        here = self._here(held, delay.TOPICS[0], now_ms)
        return None if here is None else (here.producer, self._step(held, waiting, here, hop, "hop", now))

    def _here(self, held: Held, topic: str, now_ms: int) -> Way | None:
        """The way to a topic of the mover's own cluster; without that, what is held stays a while."""
        way = self._targets.find(topic, here=True)
        if isinstance(way, Rejected):
            held.until_ms = now_ms + AGAIN_MS
            return None
        return way

    def _again(self, held: Held, waiting: delay.Waiting, now: float, now_ms: int) -> Copy | None:
        """Once more through a step of the mover's own cluster, because the target cannot be had."""
        here = self._here(held, delay.TOPICS[0], now_ms)
        if here is None:
            return None
        trouble = self._trouble.get(waiting.topic)
        hop = delay.hop_again(now_ms, 0.0 if trouble is None else now - trouble.since)
        return here.producer, self._step(held, waiting, here, hop, "hop", now)

    def _step(self, held: Held, waiting: delay.Waiting, way: Way, hop: delay.Hop, kind: str, now: float) -> NewRecord:
        place = Partition(hop.topic, waiting.partition % way.steps[hop.topic])
        extra = delay.headers(delay.original(held.record.extra), waiting.topic, waiting.partition, hop.until_ms)
        return self._new(held, kind, place, extra, now, waiting.due_ms)

    def _failed(self, held: Held, waiting: delay.Waiting, outcome: Outcome, now: float, now_ms: int) -> Copy | None:
        """Its target did not take it, or cannot be asked. What this process may not write another one may, or this one later."""
        if isinstance(outcome, Rejected) and not outcome.retryable and outcome.code != "denied":
            return self._dead(held, outcome, now, now_ms)
        self._note_trouble(waiting.topic, outcome, now)
        return self._again(held, waiting, now, now_ms)

    def _dead(self, held: Held, outcome: Rejected, now: float, now_ms: int) -> Copy | None:
        """Into the dead letters of all that was delayed in this cluster."""
        way = self._here(held, delay.DEAD_LETTERS, now_ms)
        if way is None:
            return None
        record, waiting = held.record, held.waiting
        extra = delay.dead_letter(record, waiting, self._origin(held), outcome.code, outcome.what, now_ms)
        number = (0 if waiting is None else waiting.partition) % way.partitions
        told = DeadLettered(*deadletter.names(self._origin(held), record), 0, outcome.code, deadletter.clean(outcome.what))
        new = self._new(held, "hop", Partition(delay.DEAD_LETTERS, number), extra, now, record.due_ms, told)
        return way.producer, new._replace(durable=True)

    def _origin(self, held: Held) -> Origin:
        topic = held.shelf.partition.topic if held.waiting is None else held.waiting.topic
        return Origin(topic, delay.DEAD_GROUP, self._own, held.shelf.partition.number, held.shelf.epoch, held.shelf.epoch)

    def _new(
        self, held: Held, kind: str, place: Partition, extra: delay.Pairs, now: float, due_ms: int | None, told: Event | None = None
    ) -> NewRecord:
        """The record as it was published, at another place."""
        record, token = held.record, next(self._tokens)
        self._flights[token] = _Flight(held, kind, now + PUBLISH_S + ANSWER_S, told)
        held.shelf.flying += 1
        if kind == "target":
            assert held.waiting is not None
            self._traffic.setdefault(held.waiting.topic, _Traffic(now)).flying += 1
        return NewRecord(
            token, place, record.key, record.value, id=record.id or f"{self._own}:{held.shelf.partition.topic}:{record.ref}",
            timestamp_ms=record.timestamp_ms or self._clock.wall_ms(), content_type=record.content_type, headers=record.headers,
            producer=record.producer, sequence=record.sequence, attempt=record.attempt, due_ms=due_ms, extra=extra,
            again=record.again or held.is_in_doubt,
        )  # fmt: skip

    def take_results(self) -> int:
        """Hear what became of what was published; how many answers."""
        self._give_up_late()
        taken = 0
        items = self._sink.items
        while items:
            event = items.popleft()
            for token in range(event.token, event.token + event.length):
                taken += 1
                self._landed(token, event.outcome)
        return taken

    def _give_up_late(self) -> None:
        """Results that never came; an adapter that keeps the contract has none."""
        now = self._clock.mono()
        late = []
        for token, flight in self._flights.items():
            if flight.give_up > now:
                break
            late.append(token)
        for token in late:
            self._landed(token, Unknown("the backend gave no result"))

    def _landed(self, token: int, outcome: Outcome) -> None:
        flight = self._flights.pop(token, None)
        if flight is None:
            return
        held = flight.held
        self._heard = now = self._clock.mono()
        held.shelf.flying -= 1
        if flight.kind == "target":
            self._note_answer(held, outcome, now)
        if held.shelf.gone:
            return
        if isinstance(outcome, Stored):
            held.shelf.moved(held)
            if flight.told is not None:
                self._observe(flight.told)
        elif not held.shelf.ending:
            self._not_stored(flight, outcome, now)

    def _note_answer(self, held: Held, outcome: Outcome, now: float) -> None:
        assert held.waiting is not None
        topic = held.waiting.topic
        traffic = self._traffic.get(topic)
        if traffic is not None:
            traffic.flying -= 1
            traffic.heard = now
            if not traffic.flying and not traffic.parked:
                del self._traffic[topic]
        if isinstance(outcome, Stored) and (trouble := self._trouble.pop(topic, None)) is not None:
            log.info("cluster %s: topic %s takes delayed messages again, after %.1f s", self._own, topic, now - trouble.since)

    def _not_stored(self, flight: _Flight, outcome: Outcome, now: float) -> None:
        """Another way for what a target refused; what the own cluster did not take stays here, unsettled, and is tried again."""
        held, now_ms = flight.held, self._clock.wall_ms()
        held.is_in_doubt |= window.in_doubt(outcome)
        if flight.kind == "target":
            held.refusal, held.until_ms = outcome, now_ms
            if isinstance(outcome, Rejected) and outcome.code == "no_route" and held.waiting is not None:
                self._targets.forget_topic(held.waiting.topic)
        else:
            held.until_ms = now_ms + AGAIN_MS
        self.put(held)

    def _note_trouble(self, topic: str, outcome: Outcome, now: float) -> None:
        trouble = self._trouble.get(topic)
        if trouble is None:
            if len(self._trouble) >= MOST_FAILING:
                self._trouble = {}
            trouble = self._trouble[topic] = _Trouble(now)
            what = deadletter.clean(getattr(outcome, "what", ""))
            log.warning("cluster %s: topic %s does not take delayed messages, they wait: %s", self._own, topic, what)
        trouble.retry_at = now + RETRY_S
