"""An in-memory broker of queues: no cursor and no history, each message is acknowledged by itself, and what is not comes again.

A partition of a group is a queue. Its positions are numbers of deliveries, which begin anew with each ownership, so nothing that layer 2
remembers by position outlives it; nor does the backend keep anything else for it (failed attempts are counted per owner). What an owner
leaves behind comes again marked as redelivered: at its old place, or, with `in_order=False`, out of order and behind newer messages for
consumers that are not ordered, as where these share a queue.

A topic keeps its messages while it has groups, and a group begins with what is published after it. So far as RabbitMQ: reading by position
is claimed all the same, because dead letters are read so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import ClassVar

from mqsdk.spi import Assigned, Batch, Capabilities, ConsumerEvent, Partition, Progress, Record, Settled, Subscription
from mqsdk.testing.simconsumer import SimConsumer
from mqsdk.testing.simgroup import Cursor, Group
from mqsdk.testing.simlog import SimBackend
from mqsdk.testing.simstore import SimLog

QUEUE = Capabilities(
    settle="receipt", publish="async", history=False, replay=False, by_time=False, keeps_topic=False, companions=True, attempts=False,
    rejects_in_order=False, delay="native", sparse_bytes=0,
)  # fmt: skip


class _Queue:
    """What one ownership has to deliver. places: of what it delivered, by number. again: what earlier owners left, next first."""

    __slots__ = ("again", "cursor", "epoch", "fresh", "places", "seen")

    def __init__(self, cursor: Cursor, in_order: bool) -> None:
        self.cursor = cursor
        self.epoch = cursor.epoch
        self.places: list[int] = []
        self.seen = max(cursor.high, cursor.log.base)  # what was delivered to anybody lies below
        left = [place for place in range(max(cursor.watermark, cursor.log.base), self.seen) if place not in cursor.done]
        self.again: deque[int] = deque(left if in_order else reversed(left))
        self.fresh = self.seen
        if not in_order and self.fresh < cursor.log.end and left:
            self.again.appendleft(self.fresh)  # a newer one comes first
            self.fresh += 1

    @property
    def has_more(self) -> bool:
        return bool(self.again) or self.fresh < self.cursor.log.end

    def next(self) -> int:
        if self.again:
            return self.again.popleft()
        self.fresh += 1
        return self.fresh - 1

    def settle(self, progress: Progress) -> None:
        """Acknowledge what is new among the numbers below the watermark and in `done`."""
        cursor = self.cursor
        ranges = [(0, progress.watermark), *progress.done]
        numbers = {number for start, stop in ranges for number in range(start, min(stop, len(self.places)))}
        cursor.done.update(place for place in (self.places[number] for number in numbers) if place >= cursor.watermark)
        while cursor.watermark in cursor.done:
            cursor.done.remove(cursor.watermark)
            cursor.watermark += 1


class QueueConsumer(SimConsumer):
    """Differs from a consumer of a log by what it delivers and what a settle means; ownership is the same."""

    def __init__(
        self,
        store: SimLog,
        subscription: Subscription,
        groups: Sequence[Group],
        capabilities: Capabilities,
        forget: Callable[[SimConsumer], None],
        in_order: bool,
    ) -> None:
        super().__init__(store, subscription, groups, capabilities, forget)
        self._in_order = in_order or subscription.ordered
        self._queues: dict[Partition, _Queue] = {}

    def gained(self, cursor: Cursor) -> None:
        super().gained(cursor)
        self._queues[cursor.partition] = _Queue(cursor, self._in_order)
        assigned = self._events.pop()
        assert isinstance(assigned, Assigned)
        self._events.append(assigned._replace(position=0, sparse=b"", end=None))

    def _due(self) -> Iterator[_Queue]:
        for partition, owned in self._owned.items():
            queue = self._queues[partition]
            if owned.records > 0 and owned.bytes > 0 and not owned.revoked and queue.has_more:
                yield queue

    def _collect(self, max_records: int) -> list[ConsumerEvent]:
        if self._closed:
            return []
        self._store.release_due()
        self._show_life()
        events, self._events = self._events, []
        for queue in list(self._due()):
            max_records -= self._deliver_queue(queue, max_records, events)
        return events

    def _deliver_queue(self, queue: _Queue, budget: int, events: list[ConsumerEvent]) -> int:
        owned, cursor = self._owned[queue.cursor.partition], queue.cursor
        records: list[Record] = []
        size = 0
        while queue.has_more and len(records) < min(budget, owned.records) and size < owned.bytes:
            place = queue.next()
            if place < cursor.log.base:
                continue  # its queue is gone, which this broker does not tell
            record = copy(cursor.log.read(place, 1)[0])
            record.redelivered = place < queue.seen
            record.position = len(queue.places)
            queue.places.append(place)
            cursor.high = max(cursor.high, place + 1)
            records.append(record)
            size += record.size
        owned.records -= len(records)
        owned.bytes -= size
        if records:
            events.append(Batch(cursor.partition, owned.epoch, records, size))
        return len(records)

    def _settle(self, progress: Progress) -> Settled:
        queue = self._queues.get(progress.partition)
        high, sparse = (queue.cursor.high, b"") if queue is not None else (0, b"")
        if queue is not None and queue.epoch == progress.epoch and self._owns(progress):
            queue.settle(progress)
            at = queue.cursor.watermark
            progress = progress._replace(watermark=at, done=(), high=high, sparse=sparse)
        return super()._settle(progress)

    def _owns(self, progress: Progress) -> bool:
        owned = self._owned.get(progress.partition)
        return not self._closed and owned is not None and owned.epoch == progress.epoch and owned.cursor.owner is self


class SimQueue(SimBackend):
    """One connection to a broker of queues. The store is a SimLog as for `SimBackend`; several connections may share it.

    in_order: what comes again comes at its old place for unordered consumers too.
    """

    kind: ClassVar[str] = "queue"

    def __init__(
        self, store: SimLog | None = None, *, name: str = "queue", capabilities: Capabilities = QUEUE, in_order: bool = True
    ) -> None:
        super().__init__(store, name=name, capabilities=capabilities)
        self._in_order = in_order

    def _made(self, subscription: Subscription, groups: Sequence[Group], forget: Callable[[SimConsumer], None]) -> QueueConsumer:
        return QueueConsumer(self.store, subscription, groups, self._capabilities, forget, self._in_order)
