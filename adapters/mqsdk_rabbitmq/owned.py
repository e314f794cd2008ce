"""One partition that this consumer owns: what was received and not handed out, what was handed out and not settled.

The loop's thread puts deliveries in; the thread that polls takes them out; the loop's thread acknowledges. Positions are the delivery tags
of the partition's own channel, so they begin at 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from mqsdk.spi import Batch, Partition
from mqsdk_rabbitmq.records import Delivery, RabbitRecord

FIRST = 1
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Gained:
    """An ownership has begun. has_gap: messages are gone that nobody has read."""

    owned: Owned
    is_clean: bool
    has_gap: bool


class Owned:
    """records, bytes: credit, of the thread that polls. is_alive: the ownership is not over, of the loop's thread.

    first: position of the first delivery.
    """

    def __init__(self, partition: Partition, epoch: int, first: int = FIRST) -> None:
        self.partition = partition
        self.epoch = epoch
        self.first = first
        self.buffer: deque[Delivery] = deque()
        self.records = self.bytes = 0
        self.delivered = 0  # the highest position handed out
        self.is_started = self.is_revoked = False
        self.is_alive = True
        self._floor = 0  # every position up to here is acknowledged
        self._above: set[int] = set()  # acknowledged beyond it

    @property
    def has_news(self) -> bool:
        return bool(self.buffer) and self.records > 0 and self.bytes > 0 and not self.is_revoked

    @property
    def unsettled(self) -> int:
        """Received and not acknowledged."""
        return len(self.buffer) + max(0, self.delivered - self._floor - len(self._above))

    def deliver(self, budget: int) -> Batch:
        """What credit and budget allow; there is something."""
        buffer = self.buffer
        records: list[RabbitRecord] = []
        append, pop = records.append, buffer.popleft
        size, room = 0, self.bytes
        for _ in range(min(len(buffer), budget, self.records)):
            tag, redelivered, properties, body = pop()
            record = RabbitRecord(tag, redelivered, properties, body)
            append(record)
            size += len(body) if record.key is None else len(body) + len(record.key)
            if size >= room:
                break
        self.records -= len(records)
        self.bytes -= size
        self.delivered = records[-1].position
        return Batch(self.partition, self.epoch, records, size)

    def acks(self, watermark: int, done: Iterable[Range], delivered: int) -> list[tuple[int, bool]]:
        """(tag, multiple) of the acknowledgements that this progress asks for; they count as given from now on.

        A tag is acknowledged once only: the server ends the channel for one that it does not know (any more).
        """
        found: list[tuple[int, bool]] = []
        top = last = min(watermark - 1, delivered)
        if last > self._floor:
            while last > self._floor and last in self._above:
                last -= 1
            if last > self._floor:
                found.append((last, True))
            self._floor = top
            self._above = {position for position in self._above if position > top}
        for start, stop in done:
            for position in range(max(start, self._floor + 1), min(stop, delivered + 1)):
                if position not in self._above:
                    self._above.add(position)
                    found.append((position, False))
        return found
