"""One instance of a broadcast: every partition from its start on, no group, no lease. In place of a `Membership` for its consumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from kafka import KafkaConsumer, TopicPartition

from mqsdk.spi import Assigned, BackendError, Gap, Partition, Settled
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.owned import Owned

GROWTH_S = 5.0  # how often it is looked whether the topic has got more partitions
LOOK_S = 2.0
EPOCH = 1

Counting = Callable[[float], int | None]  # how many partitions the topic has, asked until a deadline


class Instance:
    """begins: first position wanted of each partition. What is settled stays with the desk: nobody else asks for it."""

    def __init__(self, consumer: KafkaConsumer, desk: Desk, begins: Mapping[int, int], counting: Counting) -> None:
        self._consumer = consumer
        self._desk = desk
        self._topic = desk.topics[0]
        self._counting = counting
        self._count = len(begins)
        self._growth_at = time.monotonic() + GROWTH_S
        self._take(begins, EPOCH)

    def turn(self, now: float) -> bool:
        """A partition that is added while it runs is read from its beginning: all of it was published after the start."""
        if now >= self._growth_at:
            self._growth_at = now + GROWTH_S
            try:
                count = self._counting(now + LOOK_S) or 0
            except BackendError:
                return True  # the broker is away; there is a next time
            if count > self._count:
                self._take(dict.fromkeys(range(self._count, count), 0), EPOCH)
                self._count = count
        return True

    def _take(self, begins: Mapping[int, int], epoch: int) -> None:
        places = {TopicPartition(self._topic, number): begin for number, begin in begins.items()}
        self._consumer.assign(self._consumer.assignment() | places.keys())
        for place, begin in places.items():
            self._consumer.seek(place, begin)
        with self._desk as desk:
            for place, begin in places.items():
                owned = Owned(Partition(*place), epoch, begin, b"")
                desk.owned[owned.partition] = owned
                desk.tell(Assigned(owned.partition, epoch, begin))

    def nudge(self) -> None:
        """Answer what was settled. Any thread."""
        with self._desk as desk:
            for owned, progress in desk.take_settles():
                if progress.final:
                    owned.handed_back = True
                    del desk.owned[owned.partition]
                desk.tell(Settled(owned.partition, owned.epoch, progress.token, "stored"))

    def begin_anew(self) -> None:
        """There is nothing to leave: what could not be read is tried again."""

    def cut_back(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Go on at these ends, where the log was cut, under a new epoch: others take the positions that are gone."""
        with self._desk as desk:
            cut = {place: owned for place in ends if (owned := desk.owned.get(Partition(*place))) is not None}
            cut = {place: owned for place, owned in cut.items() if owned.position > ends[place]}
            for place, owned in cut.items():
                desk.tell(Gap(owned.partition, owned.epoch, ends[place], owned.position, "truncated"))
            desk.lose(lambda owned: owned in cut.values())
        for place, owned in cut.items():
            self._take({place.partition: min(owned.watermark, ends[place])}, owned.epoch + 1)
        return True

    def leave(self, give_up: float) -> None:
        """Nobody waits for it."""

    def valid_until(self) -> float:
        """Never renewed: it was assigned for good."""
        return float("-inf")

    def is_joining(self) -> bool:
        return False

    def is_settled(self) -> bool:
        return True

    def hold_on(self) -> None:
        """It joins nothing."""
