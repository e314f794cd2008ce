"""What the threads of one consumer share: layer 2's, the one that reads, and the client's own. `with desk:` before touching anything."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from mqsdk.spi import ConsumerEvent, Lost, Partition, Progress, Settled
from mqsdk_kafka.owned import Owned
from mqsdk_kafka.sharing import Said


class Desk:
    """topics: in the order of the subscription. polled_at: when layer 2 was last seen. leaving: it handed back without being asked."""

    def __init__(self, topics: tuple[str, ...], lease_s: float) -> None:
        self.topics = topics
        self.lease_s = lease_s
        self.margin_s = lease_s / 10
        self.events: list[ConsumerEvent] = []
        self.owned: dict[Partition, Owned] = {}
        self.settles: deque[Progress] = deque()
        self.failure: Exception | None = None
        self.woken = self.closing = self.ended = self.leaving = False
        self.close_by = float("inf")
        self.polled_at = time.monotonic()
        self.is_polling = False
        self.generation = -1
        self.granted_at = float("-inf")
        self._changed = threading.Condition()

    def __enter__(self) -> Desk:
        self._changed.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._changed.release()

    def wait(self, timeout_s: float) -> None:
        self._changed.wait(timeout_s)

    def tell(self, *events: ConsumerEvent) -> None:
        """Add events and wake whoever waits."""
        self.events += events
        self._changed.notify_all()

    def said(self) -> Said:
        """What this member says when it joins."""
        with self:
            held = frozenset((topic, number) for (topic, number), owned in self.owned.items() if not owned.handed_back)
            return Said(frozenset(self.topics), held, self.generation, self.leaving)

    def lose(self, which: Callable[[Owned], bool]) -> None:
        """Drop ownerships that are over; what was to be settled under them is stale."""
        gone = [owned for owned in self.owned.values() if which(owned)]
        for owned in gone:
            del self.owned[owned.partition]
        self.tell(*(Lost(owned.partition, owned.epoch) for owned in gone))

    def take_settles(self) -> list[tuple[Owned, Progress]]:
        """Everything that is to be committed now; what is not owned any more is answered."""
        taken: list[tuple[Owned, Progress]] = []
        while self.settles:
            progress = self.settles.popleft()
            owned = self.owned.get(progress.partition)
            if owned is None or owned.epoch != progress.epoch:
                self.tell(Settled(progress.partition, progress.epoch, progress.token, "stale"))
            else:
                owned.settle(progress)
                taken.append((owned, progress))
        return taken
