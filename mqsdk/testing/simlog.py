"""An in-memory log backend: the whole SPI over a SimLog, with cursors, epochs, leases and hand-over.

It passes `mqsdk.testing.conformance` like any adapter; `TestApp` and the tests of layer 2 stand on it. Capabilities may be replaced
(`like=`): what is not claimed is refused as the named backend would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import ClassVar

from mqsdk.names import DEAD_LETTERS
from mqsdk.spi import (
    Admin,
    Backend,
    BackendHealth,
    Capabilities,
    EventSink,
    NewRecord,
    NotSupported,
    Partition,
    Producer,
    Published,
    Rejected,
    StateError,
    Stored,
    Subscription,
)
from mqsdk.testing.simadmin import SimAdmin
from mqsdk.testing.simconsumer import SimConsumer
from mqsdk.testing.simgroup import Group, Log
from mqsdk.testing.simstore import SimLog, stored

__all__ = ["MEMORY", "SimBackend", "SimConsumer", "SimLog", "SimProducer"]

MEMORY = Capabilities(
    settle="cursor", publish="inline", companions=True, broadcast=True, retention=True, amend=True, delay="native", sparse_bytes=4040
)


class SimBackend(Backend):
    """One connection to a SimLog. `crash()` is what kill -9 of its process would do."""

    kind: ClassVar[str] = "memory"

    def __init__(self, store: SimLog | None = None, *, name: str = "memory", capabilities: Capabilities = MEMORY) -> None:
        self.name = name
        self.store = store or SimLog()
        self._capabilities = capabilities
        self._consumers: list[SimConsumer] = []
        self._open = False

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def is_open(self) -> bool:
        return self._open

    def open(self, deadline: float) -> None:
        self._open = True

    def close(self, deadline: float) -> None:
        self._open = False
        for consumer in list(self._consumers):
            consumer.close(deadline)

    def crash(self) -> None:
        """Everything that this backend handed out vanishes without a word: nothing settled, nothing handed back."""
        self._open = False
        for consumer in list(self._consumers):
            consumer.vanish()

    def producer(self, events: EventSink) -> SimProducer:
        self._check_open()
        return SimProducer(self, events)

    def consumer(self, subscription: Subscription) -> SimConsumer:
        self._check_open()
        if subscription.broadcast:
            return self._instance(subscription)
        if subscription.ordered and not self._capabilities.ordered:
            raise NotSupported("ordered")
        caps, first = self._capabilities, subscription.topics[0]
        groups = [
            self.store.create_group(topic, subscription.group, subscription.start, history=caps.history, by_time=caps.by_time)
            for topic in subscription.topics
            if topic == first or topic in self.store.topics or not caps.companions
        ]
        return self._joined(subscription, groups, self._consumers.remove)

    def _instance(self, subscription: Subscription) -> SimConsumer:
        if not self._capabilities.broadcast:
            raise NotSupported("broadcast")
        own = self.store.create_instance(subscription.topics[0], subscription.group, dict(subscription.positions))

        def forget(consumer: SimConsumer) -> None:
            self.store.instances.remove(own)
            self._consumers.remove(consumer)

        return self._joined(subscription, [own], forget)

    def _joined(self, subscription: Subscription, groups: Sequence[Group], forget: Callable[[SimConsumer], None]) -> SimConsumer:
        consumer = self._made(subscription, groups, forget)
        self._consumers.append(consumer)
        consumer.join()
        return consumer

    def _made(self, subscription: Subscription, groups: Sequence[Group], forget: Callable[[SimConsumer], None]) -> SimConsumer:
        return SimConsumer(self.store, subscription, groups, self._capabilities, forget)

    def admin(self) -> Admin:
        self._check_open()
        return SimAdmin(self.store, self._capabilities)

    def health(self) -> BackendHealth:
        return BackendHealth(ok=self._open, version="1", latency_ms=0.0, guarantee="in memory: nothing survives the process")

    def _check_open(self) -> None:
        if not self._open:
            raise StateError(f"cluster {self.name} (memory) is not open", state="closed")


class SimProducer(Producer):
    """Stores at once, on the caller's thread; any number of threads may publish. Expects tokens that rise within a batch."""

    def __init__(self, backend: SimBackend, events: EventSink) -> None:
        self._backend = backend
        self._store = backend.store
        self._events = events
        self._limit = backend.capabilities.max_payload
        self._keeps_topic = backend.capabilities.keeps_topic
        self._delays = backend.capabilities.delay == "native"

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        results: list[Published] = []
        with self._store.lock:
            self._store.release_due()
            for partition, run in _runs(batch):
                results += self._store_run(partition, run)
            self._store.nudge({new.partition.topic for new in batch})
        for result in results:  # outside the lock: the sink is layer 2's
            self._events.put(result)

    def _store_run(self, partition: Partition, run: Sequence[NewRecord]) -> Iterable[Published]:
        """Lock held."""
        refusal = self._refusal(partition)
        if refusal is not None:
            return [Published(new.token, refusal) for new in run]
        log = self._store.logs[partition]
        log.marks.append((log.end, self._store.serial))
        self._store.serial += 1
        is_delayed = self._delays and any(new.due_ms is not None for new in run)
        if is_delayed or self._limit is not None or self._store.faulty or run[-1].token - run[0].token != len(run) - 1:
            return [self._store_one(log, new) for new in run]
        first = log.end
        log.extend([stored(new, position) for position, new in enumerate(run, first)])
        return (Published(run[0].token, Stored(first), len(run)),)

    def _store_one(self, log: Log, new: NewRecord) -> Published:
        position = log.end
        if self._limit is not None and len(new.value) > self._limit:
            return Published(new.token, Rejected("too_large", f"{len(new.value)} bytes are over the limit of {self._limit}"))
        outcome, store_it = self._store.fault_of(new.producer, new.sequence, new.id)
        if store_it and self._delays and new.due_ms is not None and new.due_ms > self._store.clock.wall_ms():
            self._store.delayed.put(new, new.due_ms)
            return Published(new.token, outcome or Stored())
        if store_it:
            log.extend([stored(new, position)])
        return Published(new.token, outcome or Stored(position))

    def _refusal(self, partition: Partition) -> Rejected | None:
        if not self._backend.is_open:
            return Rejected("backend", f"cluster {self._backend.name} (memory) is closed")
        if partition not in self._store.logs:
            return Rejected("backend", f"topic {partition.topic} has no partition {partition.number}", fix="ensure_topic first")
        # Dead letters are kept everywhere: a backend that keeps nothing without a group makes one for them, as RabbitMQ does.
        keeps = self._keeps_topic or partition.topic.endswith(DEAD_LETTERS)
        if not keeps and not self._store.groups[partition.topic]:
            return Rejected("no_group", f"topic {partition.topic} has no group yet", fix="ensure a group first")
        return None


def _runs(batch: Sequence[NewRecord]) -> Iterable[tuple[Partition, Sequence[NewRecord]]]:
    """The batch cut where the partition changes."""
    if len(batch) == 1:
        return ((batch[0].partition, batch),)
    return ((partition, list(run)) for partition, run in groupby(batch, key=attrgetter("partition")))
