"""Declaring again what is gone of a partition, while its consumer runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mqsdk.spi import BackendError, Partition
from mqsdk_rabbitmq import topology
from mqsdk_rabbitmq.catalog import held
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.slot import Slot
from mqsdk_rabbitmq.wire import Loop

REPAIR_S = 10.0


class Repairs:
    """Each on a thread of its own: it waits for answers. done: called on the loop's thread, with the error where there was one."""

    def __init__(self, dialer: Dialer, loop: Loop, group: str, done: Callable[[Slot, BackendError | None], None]) -> None:
        self._dialer = dialer
        self._loop = loop
        self._group = group
        self._done = done
        self._running: set[Partition] = set()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._running

    def begin(self, slot: Slot) -> None:
        """The slot stands in line again when it is done."""
        self._running.add(slot.partition)
        slot.end(hand_back=False, is_lost=True)
        slot.leave()
        threading.Thread(target=self._declare, args=(slot,), name="mqsdk-rabbitmq-repair", daemon=True).start()

    def _declare(self, slot: Slot) -> None:
        failure: BackendError | None = None
        try:
            with self._dialer.session(time.monotonic() + REPAIR_S) as session:
                kind = self._dialer.settings.own.queues
                with held(session, kind) as holder:
                    about = holder.catalog.topics.get(slot.partition.topic)
                mark = "" if about is None else about.mark
                topology.make_partition(session, slot.partition, self._group, mark, kind, is_known=True)
        except BackendError as error:
            failure = error
        self._loop.call(lambda: self._declared(slot, failure))

    def _declared(self, slot: Slot, failure: BackendError | None) -> None:
        self._running.discard(slot.partition)
        self._done(slot, failure)
