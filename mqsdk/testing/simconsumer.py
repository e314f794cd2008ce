"""A consumer of a SimLog: ownership, delivery under credit, settle, hand-over. See `mqsdk.spi.Consumer` for what each method promises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from copy import copy

from mqsdk.spi import (
    Assigned,
    Batch,
    Capabilities,
    Consumer,
    ConsumerEvent,
    Lost,
    Partition,
    Progress,
    Renewed,
    Revoking,
    Settled,
    Subscription,
)
from mqsdk.testing.simgroup import Cursor, Group, gap_of
from mqsdk.testing.simstore import SimLog


class _Owned:
    """One ownership of this consumer: where it reads next and how much it may still deliver (nothing before the first credit)."""

    __slots__ = ("bytes", "cursor", "epoch", "follows_crash", "position", "records", "revoked")

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.epoch = cursor.epoch
        self.position = cursor.watermark
        self.records = 0
        self.bytes = 0
        self.revoked = False
        self.follows_crash = not cursor.clean


class SimConsumer(Consumer):
    """Member of its groups from creation to `close`; comes back by itself after its lease ran out."""

    def __init__(
        self,
        store: SimLog,
        subscription: Subscription,
        groups: Sequence[Group],
        capabilities: Capabilities,
        forget: Callable[[SimConsumer], None],
    ) -> None:
        self.id = store.new_member_id(subscription.instance)
        self._store = store
        self._lease_s = subscription.lease_s
        self._group = subscription.group
        self._groups = list(groups)
        self._awaited = set(subscription.topics) - {group.topic for group in groups} if capabilities.companions else set()
        self._has_companions = capabilities.companions
        self._forget = forget
        self._receipts = capabilities.settle == "receipt"
        self._sparse_bytes = capabilities.sparse_bytes
        self._owned: dict[Partition, _Owned] = {}
        self._events: list[ConsumerEvent] = []
        self._ready = threading.Condition(store.lock)
        self.leaving = False
        self._waiting = self._woken = self._closed = False
        self._seen = self._store.clock.mono()

    # --- what layer 2 calls --------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        give_up = time.monotonic() + timeout_s
        with self._store.lock:
            while True:
                events = self._collect(max_records)
                left = give_up - time.monotonic()
                # `_waiting` is set before `_woken` is read and `wake` does it the other way round: one of them sees the other.
                self._waiting = True
                if events or self._woken or self._closed or left <= 0:
                    self._waiting = self._woken = False
                    return events
                self._ready.wait(min(left, self._next_due()))

    def wake(self) -> None:
        self._woken = True
        if self._waiting:
            with self._store.lock:
                self._ready.notify()

    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        owned = self._owned.get(partition)
        if owned is not None:
            owned.records, owned.bytes = records, bytes

    def settle(self, progress: Progress) -> None:
        with self._store.lock:
            self._events.append(self._settle(progress))

    def close(self, deadline: float) -> None:
        self._leave(clean=True)

    def vanish(self) -> None:
        """Die as by kill -9, seen at once. Nothing is handed back in order."""
        self._leave(clean=False)

    # --- what the store calls, its lock held ------------------------------------------------------------------------------------

    def join(self) -> None:
        with self._store.lock:
            for group in self._groups:
                self._join(group)

    def _join(self, group: Group) -> None:
        if self._has_companions:
            group.follow(self._groups[0])
        group.join(self, self._store.clock.mono(), self._store.handover_s)

    def gained(self, cursor: Cursor) -> None:
        self._owned[cursor.partition] = _Owned(cursor)
        self._events.append(
            Assigned(
                cursor.partition,
                cursor.epoch,
                cursor.watermark,
                cursor.sparse,
                valid_until=self._valid_until(),
                clean=cursor.clean,
                end=cursor.log.end,
            )
        )

    def revoke(self, cursor: Cursor, deadline: float) -> None:
        self._owned[cursor.partition].revoked = True
        self._events.append(Revoking(cursor.partition, cursor.epoch, deadline))

    def lost(self, cursor: Cursor) -> None:
        self._owned.pop(cursor.partition, None)
        self._events.append(Lost(cursor.partition, cursor.epoch))
        self.nudge()

    def nudge(self) -> None:
        if self._waiting:
            self._ready.notify()

    def expired(self, now: float) -> bool:
        return not self._waiting and now > self._seen + self._lease_s

    # --- inside, lock held -------------------------------------------------------------------------------------------------------

    def _collect(self, max_records: int) -> list[ConsumerEvent]:
        if self._closed:
            return []
        self._store.release_due()
        self._show_life()
        events, self._events = self._events, []
        budget = max_records
        for partition, owned in list(self._owned.items()):
            if budget <= 0:
                break
            if owned.records > 0 and owned.bytes > 0 and not owned.revoked and owned.position < owned.cursor.log.end:
                budget -= self._deliver(owned, budget, events)
                self._owned[partition] = self._owned.pop(partition)  # to the back of the queue, so that none starves
        return events

    def _show_life(self) -> None:
        now = self._store.clock.mono()
        self._take_up()
        for group in self._groups:
            group.expire(self, now, self._store.handover_s)
            if self not in group.members:
                group.join(self, now, self._store.handover_s)
        if now - self._seen >= self._lease_s / 10:
            self._seen = now
            self._events.append(Renewed(self._valid_until()))

    def _take_up(self) -> None:
        """Join in the topics that the group reads by now."""
        for topic in sorted(self._awaited):
            group = self._store.group(topic, self._group)
            if group is not None:
                self._awaited.remove(topic)
                self._groups.append(group)
                self._join(group)

    def _valid_until(self) -> float:
        # A tenth of the lease as margin: a worker that starts at the last moment is seen to start before any taker does.
        return self._seen + self._lease_s * 0.9

    def _deliver(self, owned: _Owned, budget: int, events: list[ConsumerEvent]) -> int:
        cursor = owned.cursor
        gap = gap_of(cursor, owned.position)
        if gap is not None:
            events.append(gap)
            owned.position = gap.stop
        records, size = cursor.log.take(owned.position, min(budget, owned.records), owned.bytes)
        if not records:
            return 0
        owned.position += len(records)
        if self._receipts and cursor.done:  # a receipt backend remembers each one; a cursor backend leaves them to layer 2's sparse blob
            records = [record for record in records if record.position not in cursor.done]
            size = sum(record.size for record in records)
        if owned.follows_crash:  # layer 2 marks what the last owner may have had; others read the same records
            records = [copy(record) for record in records]
        owned.records -= len(records)
        owned.bytes -= size
        if records:
            events.append(Batch(cursor.partition, owned.epoch, records, size))
        return len(records)

    def _settle(self, progress: Progress) -> Settled:
        partition, epoch, token = progress.partition, progress.epoch, progress.token
        owned = self._owned.get(partition)
        if self._closed or owned is None or owned.epoch != epoch or owned.cursor.owner is not self:
            return Settled(partition, epoch, token, "stale")
        if len(progress.sparse) > self._sparse_bytes:
            return Settled(partition, epoch, token, "failed", f"sparse blob over {self._sparse_bytes} bytes")
        owned.cursor.settle(progress.watermark, progress.done, progress.high, progress.sparse)
        if progress.final:
            # Handed back unasked means about to leave: nothing is given to it any more, the rest of the group shares at once.
            self.leaving = self.leaving or not owned.revoked
            del self._owned[partition]
            owned.cursor.release(clean=True)
            self._rebalance(partition.topic)
        return Settled(partition, epoch, token, "stored")

    def _rebalance(self, topic: str) -> None:
        for group in self._groups:
            if group.topic == topic:
                group.balance(self._store.clock.mono(), self._store.handover_s)

    def _leave(self, *, clean: bool) -> None:
        with self._store.lock:
            if self._closed:
                return
            self._closed = True
            self._owned.clear()
            for group in self._groups:
                group.leave(self, self._store.clock.mono(), self._store.handover_s, clean=clean)
            self._forget(self)
            self._ready.notify_all()

    def _next_due(self) -> float:
        now = self._store.clock.mono()
        others = self._lease_s if any(len(group.members) > 1 for group in self._groups) else 60.0
        due = min((group.next_due() for group in self._groups), default=float("inf"))
        delayed = self._store.due() or float("inf")
        return max(0.001, min(due - now, delayed - now, others, self._lease_s / 3))
