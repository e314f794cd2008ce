"""One ownership: what was read ahead, what of it may be delivered, how far it is settled. Talks to nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from mqsdk.spi import Batch, ConsumerEvent, Gap, Partition, Progress
from mqsdk_kafka.marks import Mark
from mqsdk_kafka.records import KafkaRecord

# Read ahead of the credit per partition, beside what the client has fetched: enough that a consumer never waits for the reading thread.
AHEAD_RECORDS = 2000
AHEAD_BYTES = 1 << 20
_VALUE_SIZE, _KEY_SIZE = attrgetter("serialized_value_size"), attrgetter("serialized_key_size")


class Owned:
    """position: where reading goes on after what was received. watermark, blob: as committed or asked to be. records, bytes: credit left.

    asked: it is to be handed back. ending: it delivers nothing more, because it is asked back or layer 2 has ended it. handed_back: done.
    """

    def __init__(self, partition: Partition, epoch: int, position: int, blob: bytes) -> None:
        self.partition = partition
        self.epoch = epoch
        self.position = self.watermark = position
        self.blob = blob
        self.records = self.bytes = 0
        self.asked = self.ending = self.handed_back = self.paused = False
        self._ahead: deque[Sequence[Any] | Gap] = deque()
        self._ahead_records = self._ahead_bytes = 0

    # --- reading ------------------------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self._ahead_records >= AHEAD_RECORDS or self._ahead_bytes >= AHEAD_BYTES

    @property
    def is_low(self) -> bool:
        return self._ahead_records < AHEAD_RECORDS // 2 and self._ahead_bytes < AHEAD_BYTES // 2

    def receive(self, records: Sequence[Any]) -> None:
        """Records of the client, in order."""
        self._ahead.append(records)
        self._ahead_records += len(records)
        # The client has measured them: -1 for none.
        self._ahead_bytes += sum(map(_VALUE_SIZE, records)) + sum(map(_KEY_SIZE, records)) + len(records)
        self.position = records[-1].offset + 1

    def lose(self, stop: int) -> None:
        """What stood between here and `stop` is gone."""
        self._ahead.append(Gap(self.partition, self.epoch, self.position, stop, "retention"))
        self.position = stop

    # --- delivering ---------------------------------------------------------------------------------------------------------------------

    @property
    def may_deliver(self) -> bool:
        return self.records > 0 and self.bytes > 0 and not self.ending

    @property
    def has_news(self) -> bool:
        return bool(self._ahead) and not self.ending and (self.may_deliver or isinstance(self._ahead[0], Gap))

    def deliver(self, budget: int) -> list[ConsumerEvent]:
        """What credit and budget allow, in order: a gap stands before the records behind it."""
        events: list[ConsumerEvent] = []
        while self._ahead and not self.ending:
            item = self._ahead[0]
            if isinstance(item, Gap):
                events.append(item)
                self._ahead.popleft()
                continue
            batch = self._batch(budget)
            if batch is None:
                break
            events.append(batch)
            budget -= len(batch.records)
        return events

    def _batch(self, budget: int) -> Batch | None:
        found: list[KafkaRecord] = []
        size, left, room = 0, min(budget, self.records), self.bytes
        while self._ahead and left > len(found) and size < room:
            chunk = self._ahead[0]
            if isinstance(chunk, Gap):
                break
            taken, size = _take(chunk, left - len(found), size, room, found)
            if taken == len(chunk):
                self._ahead.popleft()
            else:
                self._ahead[0] = chunk[taken:]
        if not found:
            return None
        self._ahead_records -= len(found)
        self._ahead_bytes = self._ahead_bytes - size if self._ahead_records else 0
        self.records -= len(found)
        self.bytes -= size
        return Batch(self.partition, self.epoch, found, size)

    # --- settling -----------------------------------------------------------------------------------------------------------------------

    def settle(self, progress: Progress) -> None:
        """Note what is to be committed: the watermark never falls, the blob is the last one."""
        self.watermark = max(self.watermark, min(progress.watermark, self.position))
        self.blob = progress.sparse

    def mark(self, clean: bool) -> Mark:
        return Mark(clean, self.epoch, self.blob)


def _take(chunk: Sequence[Any], most: int, size: int, room: int, found: list[KafkaRecord]) -> tuple[int, int]:
    """Append records until `most` are taken or `room` is used up; (taken, size)."""
    taken = 0
    for record in chunk if len(chunk) <= most else chunk[:most]:
        if size >= room:
            break
        _, _, _, offset, stamp, _, key, value, headers, *_ = record
        found.append(KafkaRecord(offset, key, value, headers, stamp))
        if value is not None:
            size += len(value)
        if key is not None:
            size += len(key)
        taken += 1
    return taken, size
