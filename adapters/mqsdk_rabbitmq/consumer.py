"""Reading one subscription: what the loop's thread received, handed out to the thread that polls."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from pika import ConnectionParameters

from mqsdk.spi import Assigned, Consumer, ConsumerEvent, Lost, Partition, Progress, Renewed, Revoking, Settled, Subscription
from mqsdk_rabbitmq.errors import closed
from mqsdk_rabbitmq.instance import Instance
from mqsdk_rabbitmq.member import Hub, gap
from mqsdk_rabbitmq.owned import Gained, Owned
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.wire import parameters

MARGIN = 0.1  # of the lease: nothing may start in the last tenth, so that a start and a takeover are seen in this order
HEARTBEATS_PER_LEASE = 3  # a frozen process is cut off after two to three heartbeats
MAX_HEARTBEAT_S = 60
LEAST_CLOSE_S = 0.5  # a close whose deadline has passed still tells the group

Forget = Callable[["RabbitConsumer"], None]
MakeHub = Callable[["RabbitConsumer", Sequence[ConnectionParameters], int], Hub | Instance]  # inbox, where to connect, heartbeat


class RabbitConsumer(Consumer):
    """`poll`, `credit` and `settle` by one thread; `wake` and `close` by any."""

    def __init__(self, dialer: Dialer, subscription: Subscription, make_hub: MakeHub, forget: Forget) -> None:
        self._cluster = dialer.cluster
        self._forget = forget
        self._lease_s = subscription.lease_s
        self._mail: deque[ConsumerEvent | Owned | Gained] = deque()
        self._ready = threading.Event()
        self._owned: dict[Partition, Owned] = {}
        self._state = "open"
        self._woken = self._is_sleeping = self._is_polling = False
        self._polled_at = time.monotonic()
        self._told_until = 0.0
        self._heartbeat_s = max(1, min(MAX_HEARTBEAT_S, int(subscription.lease_s / HEARTBEATS_PER_LEASE)))
        name = f"mqsdk {subscription.topics[0]}/{subscription.group} {subscription.instance}".strip()
        targets = parameters(dialer.settings, self._heartbeat_s, name)
        self._is_alone = subscription.broadcast
        self._hub = make_hub(self, targets, self._heartbeat_s)

    # --- what layer 2 calls -------------------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        self._check_usable()
        give_up = time.monotonic() + timeout_s
        self._is_polling = True
        try:
            return self._collect(max_records, give_up)
        finally:
            self._polled_at = time.monotonic()
            self._is_polling = False

    def wake(self) -> None:
        self._woken = True
        self._ready.set()

    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        owned = self._owned.get(partition)
        if owned is None:
            return
        owned.records, owned.bytes = records, bytes
        if records > 0 and not owned.is_started:
            owned.is_started = True
            self._hub.loop.call(self._hub.slot(partition).consume)

    def settle(self, progress: Progress) -> None:
        if self._state == "stale":
            self._check_usable()
        owned = self._owned.get(progress.partition)
        if self._state != "open" or owned is None or owned.epoch != progress.epoch:
            self._mail.append(Settled(progress.partition, progress.epoch, progress.token, "stale"))
            return
        delivered = owned.delivered
        hub, slot = self._hub, self._hub.slot(progress.partition)
        if progress.final:
            del self._owned[progress.partition]
            if not owned.is_revoked:
                hub.loop.call(hub.leave_group)
        hub.loop.call(lambda: slot.settle(owned, progress, delivered))

    def close(self, deadline: float) -> None:
        if self._state != "open":
            return
        self._state = "closed"
        self.wake()
        hub = self._hub
        deadline = max(deadline, time.monotonic() + LEAST_CLOSE_S)
        hub.loop.call(lambda: hub.close(deadline))
        hub.done.wait(max(0.0, deadline - time.monotonic()) + LEAST_CLOSE_S)
        hub.loop.stop()
        self._forget(self)

    def crash(self) -> None:
        """As a kill of the process: the sockets are cut, nothing is handed back. For tests of the seam."""
        self._state = "closed"
        self.wake()
        self._hub.loop.call(self._hub.crash)
        self._hub.done.wait(LEAST_CLOSE_S)
        self._hub.loop.stop()
        self._forget(self)

    def vanish(self) -> None:
        """In a forked child: close the sockets' copies and fail from now on; the parent keeps what it owns."""
        self._state = "stale"
        self._hub.vanish()

    # --- what the loop's thread calls ---------------------------------------------------------------------------------------------------

    def put(self, event: ConsumerEvent) -> None:
        self._mail.append(event)
        self.look()

    def gained(self, gained: Gained) -> None:
        self._mail.append(gained)
        self.look()

    def dropped(self, owned: Owned, is_lost: bool) -> None:
        if is_lost:
            self._mail.append(owned)
            self.look()

    def look(self) -> None:
        """There may be something new."""
        if self._is_sleeping and (self._mail or self._has_news()):
            self._is_sleeping = False
            self._ready.set()

    def is_frozen(self, now: float) -> bool:
        """Layer 2 has not polled for a whole lease."""
        return not self._is_polling and now - self._polled_at > self._lease_s

    # --- collecting ---------------------------------------------------------------------------------------------------------------------

    def _collect(self, max_records: int, give_up: float) -> list[ConsumerEvent]:
        if time.monotonic() - self._polled_at > self._lease_s:
            self._hub.loop.call(self._hub.thaw)
        while True:
            events = self._sort() if self._mail else []
            if max_records > 0:
                self._deliver(events, max_records)
            now = time.monotonic()
            self._polled_at = now
            if self._owned:
                self._renew(events, now)
            if events or self._woken or self._state != "open" or now >= give_up:
                self._woken = False
                return events
            self._sleep(min(give_up, now + self._heartbeat_s / 4) - now, max_records > 0)

    def _sleep(self, timeout_s: float, may_deliver: bool) -> None:
        self._ready.clear()
        self._is_sleeping = True
        if not (self._mail or self._woken or self._state != "open" or (may_deliver and self._has_news())):
            self._ready.wait(timeout_s)
        self._is_sleeping = False

    def _has_news(self) -> bool:
        return any(owned.has_news for owned in list(self._owned.values()))

    def _sort(self) -> list[ConsumerEvent]:
        """What the loop's thread has put, in order."""
        events: list[ConsumerEvent] = []
        mail = self._mail
        while mail:
            item = mail.popleft()
            if isinstance(item, Gained):
                events += self._begun(item)
            elif isinstance(item, Owned):
                if self._owned.get(item.partition) is item:
                    del self._owned[item.partition]
                    events.append(Lost(item.partition, item.epoch))
            else:
                if isinstance(item, Revoking) and item.partition in self._owned:
                    self._owned[item.partition].is_revoked = True
                events.append(item)
        return events

    def _begun(self, gained: Gained) -> list[ConsumerEvent]:
        owned = gained.owned
        self._owned[owned.partition] = owned
        valid_until = self._valid_until(time.monotonic())
        first = 0 if gained.has_gap else owned.first
        assigned = Assigned(owned.partition, owned.epoch, first, b"", valid_until, gained.is_clean)
        return [assigned, gap(owned)] if gained.has_gap else [assigned]

    def _deliver(self, events: list[ConsumerEvent], budget: int) -> None:
        for owned in [owned for owned in self._owned.values() if owned.has_news]:
            if budget <= 0:
                break
            batch = owned.deliver(budget)
            budget -= len(batch.records)
            events.append(batch)
            # To the back of the queue, so that none starves.
            self._owned[owned.partition] = self._owned.pop(owned.partition)

    # --- how long an ownership is good --------------------------------------------------------------------------------------------------

    def _valid_until(self, now: float) -> float:
        """The server cuts nobody off before a heartbeat has passed since it was heard last; this side gives up after a lease.

        What a broadcast has is nobody else's.
        """
        if self._is_alone:
            return float("inf")
        connection = self._hub.connection
        heard = connection.heard if connection is not None else 0.0
        return min(heard + self._heartbeat_s, now + self._lease_s * (1 - MARGIN))

    def _renew(self, events: list[ConsumerEvent], now: float) -> None:
        until = self._valid_until(now)
        if until > self._told_until + self._heartbeat_s / 4:
            self._told_until = until
            events.append(Renewed(until))

    def _check_usable(self) -> None:
        if self._state != "open":
            raise closed(self._cluster, self._state)
