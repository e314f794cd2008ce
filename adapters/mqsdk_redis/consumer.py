"""Reading one subscription: leases from the group's keys, reads and settles by scripts that check them, sleep on a second connection."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mqsdk.spi import Batch, Consumer, ConsumerEvent, Link, Partition, Progress, Settled, Subscription
from mqsdk_redis.client import Client
from mqsdk_redis.errors import STALE, closed, code_of
from mqsdk_redis.instance import End, Instance
from mqsdk_redis.leases import Leases
from mqsdk_redis.mover import Mover
from mqsdk_redis.owned import Owned
from mqsdk_redis.pipeline import Call, Pipeline, Reply
from mqsdk_redis.seat import Seat
from mqsdk_redis.waiter import Waiter
from mqsdk_redis.wire import FAILURES, ResponseError, Wire

SPARSE_BYTES = 4096
LONGEST_SLEEP_S = 1.0
CONNECT_S = 2.0  # one attempt to reconnect, inside a poll
BACKOFF_S = (0.05, 1.0)
LEAST_CLOSE_S = 0.5  # a close whose deadline has passed still tells the group

Forget = Callable[["RedisConsumer"], None]


class RedisConsumer(Consumer):
    """`poll`, `credit` and `settle` by one thread; `wake` and `close` by any."""

    def __init__(self, client: Client, subscription: Subscription, ends: Sequence[End], forget: Forget) -> None:
        """ends: of the partitions of the first topic."""
        self._client = client
        self._scripts = client.scripts
        self._forget = forget
        self._busy = threading.Lock()  # who has it may touch the connections and what is owned
        self._wake_guard = threading.Lock()
        self._events: list[ConsumerEvent] = []
        self._owned: dict[Partition, Owned] = {}
        self._pipeline = Pipeline()
        self._woken = self._closing = self._closed = self._stale = False
        self._wire: Wire | None = None
        self._is_up = True
        self._run_id: str | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._waiter = Waiter()
        self._mover = Mover(self._scripts, self._owned)
        self._leases = self._make_leases(subscription, ends)

    def _make_leases(self, subscription: Subscription, ends: Sequence[End]) -> Leases | Instance:
        keep_s, put = self._client.settings.own.keep, self._events.append
        if subscription.broadcast:
            return Instance(self._scripts, subscription, ends, keep_s, self._owned, put)
        return Leases(self._scripts, Seat(self._scripts, subscription, len(ends)), keep_s, self._owned, put, self._pipeline.send)

    # --- what layer 2 calls -------------------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        self._check_usable()
        give_up = time.monotonic() + timeout_s
        with self._busy:
            try:
                return self._collect(max_records, give_up)
            finally:
                if self._closing:
                    self._end(time.monotonic() + LEAST_CLOSE_S)

    def wake(self) -> None:
        self._woken = True
        with self._wake_guard:  # the descriptor is not closed, and so not somebody else's, while it is written to
            if not self._closed and not self._stale:
                self._waiter.wake()

    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        owned = self._owned.get(partition)
        if owned is not None:
            owned.records, owned.bytes = records, bytes

    def settle(self, progress: Progress) -> None:
        """Goes out with the next poll, all of them in one round trip."""
        if self._stale:
            self._check_usable()
        with self._busy:
            self._settle(progress)

    def close(self, deadline: float) -> None:
        if self._stale:
            return
        self._closing = True
        self.wake()
        # A poll that is running ends by itself and closes: whoever holds the lock does it.
        if not self._busy.acquire(timeout=max(0.0, deadline - time.monotonic())):
            wire = self._wire
            if wire is not None:
                wire.abort()  # it waits for a server that does not answer
            if not self._busy.acquire(timeout=LEAST_CLOSE_S):
                return
        try:
            self._end(deadline)
        finally:
            self._busy.release()

    def vanish(self) -> None:
        """Close the sockets and fail from now on: a forked child gives up its copies, the parent keeps its leases. Takes no lock."""
        if not (self._closed or self._stale):  # once: by then its descriptors may be somebody else's
            self._stale = True
            if self._wire is not None:
                self._wire.vanish()
            self._waiter.vanish()

    # --- collecting ---------------------------------------------------------------------------------------------------------------------

    def _collect(self, max_records: int, give_up: float) -> list[ConsumerEvent]:
        nudged = False
        while True:
            now = time.monotonic()
            try:
                wire = self._connected(now)
                if wire is not None:
                    self._pipeline.hear(wire)
                    if nudged or now >= self._leases.due():
                        self._leases.turn(wire, now)
                    self._deliver(max_records)
                    if not self._events:
                        self._ask(wire, max_records)
                        self._pipeline.hear(wire)
                        self._deliver(max_records)
                    if self._events:
                        self._ask(wire, max_records)  # heard at the next poll: the server works while these are handled
            except FAILURES as error:
                self._went_down(error)
            if self._events or self._woken or self._closing or time.monotonic() >= give_up:
                self._woken = False
                events = self._events[:]
                self._events.clear()
                return events
            nudged = self._sleep(give_up, max_records > 0)

    def _ask(self, wire: Wire, max_records: int) -> None:
        """Settles and reads of all partitions in one round trip."""
        moves = self._mover.calls(time.monotonic())
        readers = [owned for owned in self._owned.values() if owned.wants] if max_records > 0 else []
        self._pipeline.ask(wire, [*moves, *self._reads(wire, readers, max_records)])

    def _deliver(self, max_records: int) -> None:
        """What credit allows."""
        budget = max_records
        for owned in [owned for owned in self._owned.values() if owned.has_news]:
            if budget <= 0:
                break
            events = owned.deliver(budget)
            budget -= sum(len(event.records) for event in events if isinstance(event, Batch))
            self._events += events
            # To the back of the queue, so that none starves.
            self._owned[owned.partition] = self._owned.pop(owned.partition)

    def _reads(self, wire: Wire, readers: list[Owned], max_records: int) -> list[Call]:
        calls: list[Call] = []
        for place, owned in enumerate(readers):
            count = owned.count(max(1, max_records // len(readers)))
            if place >= max_records:
                break
            calls.append((self._leases.read_call(owned, count), self._read(wire, owned, count)))
        return calls

    def _read(self, wire: Wire, owned: Owned, count: int) -> Reply:
        def answered(reply: Any) -> None:
            if self._owned.get(owned.partition) is not owned:
                return
            if isinstance(reply, ResponseError):
                self._refused(owned, reply)
                return
            entries = self._leases.entries(reply)
            dead = owned.receive(entries, len(entries) == count, self._leases.lost_before(wire, owned))
            if dead:
                self._pipeline.send(self._leases.settle_call(owned, dead))

        return answered

    def _refused(self, owned: Owned, error: ResponseError) -> None:
        """An owner's script has not run."""
        if code_of(error) in (STALE, "NOGROUP"):
            self._leases.lose(owned)
        else:
            raise error

    # --- settling -----------------------------------------------------------------------------------------------------------------------

    def _settle(self, progress: Progress) -> None:
        partition, epoch, token = progress.partition, progress.epoch, progress.token
        owned = self._owned.get(partition)
        if self._closed or self._closing or owned is None or owned.epoch != epoch:
            self._events.append(Settled(partition, epoch, token, "stale"))
            return
        if len(progress.sparse) > SPARSE_BYTES:
            self._events.append(Settled(partition, epoch, token, "failed", f"the sparse blob has over {SPARSE_BYTES} bytes"))
            return
        positions = owned.take(progress.done)
        blob = b"-" if progress.sparse == owned.blob else b"=" + progress.sparse
        owned.blob = progress.sparse
        call = self._leases.settle_call(owned, owned.ids(positions), progress.final, blob)
        if progress.final:
            if owned.give_back_by is None:
                self._leases.leave_soon()
            owned.give_back_by = float("inf")
        self._pipeline.outbox.append((call, self._settled(owned, progress, positions)))

    def _settled(self, owned: Owned, progress: Progress, positions: list[int]) -> Reply:
        partition, epoch, token = progress.partition, progress.epoch, progress.token

        def answered(reply: Any) -> None:
            if not isinstance(reply, ResponseError):
                self._events.append(Settled(partition, epoch, token, "stored"))
                if progress.final:
                    self._leases.handed_back(owned)
            elif code_of(reply) == STALE:
                self._events.append(Settled(partition, epoch, token, "stale"))
                self._leases.lose(owned)
            else:
                owned.put_back(positions)
                owned.blob = None
                self._events.append(Settled(partition, epoch, token, "failed", code_of(reply)))

        return answered

    # --- the link -----------------------------------------------------------------------------------------------------------------------

    def _connected(self, now: float) -> Wire | None:
        """The command connection, made anew when it is time to; None while the link is down."""
        if self._wire is None and now >= self._retry_at:
            self._wire = self._client.dialer.once(CONNECT_S)
            self._came_up(self._wire)
        wire = self._wire
        if wire is not None and self._waiter.wire is None:
            self._waiter.use(self._client.dialer.once(CONNECT_S))
        return wire

    def _came_up(self, wire: Wire) -> None:
        is_same = self._run_id is None or (wire.run_id != "" and wire.run_id == self._run_id)
        self._run_id = wire.run_id
        self._leases.reconnected(wire, is_same)
        self._failures = 0
        if not self._is_up:
            self._is_up = True
            self._events.append(Link(up=True))

    def _went_down(self, error: Exception) -> None:
        if self._wire is not None:
            self._wire.abort()
            self._wire = None
        self._pipeline.forget()
        self._waiter.use(None)
        least, most = BACKOFF_S
        self._retry_at = time.monotonic() + min(most, least * 2 ** min(self._failures, 10)) * random.uniform(0.7, 1.0)
        self._failures += 1
        if self._is_up and not self._closing:
            self._is_up = False
            self._events.append(Link(up=False, error=self._client.dialer.error(error)))

    # --- sleeping -----------------------------------------------------------------------------------------------------------------------

    def _sleep(self, give_up: float, may_read: bool) -> bool:
        """Wait for an entry, a wake-up, news of the group or the next thing to do. True when the group may have something new."""
        now = time.monotonic()
        if self._wire is None:
            self._waiter.sleep({}, min(give_up, self._retry_at) - now)
            return False
        if self._pipeline.outbox or (may_read and any(owned.wants or owned.has_news for owned in self._owned.values())):
            return False
        try:
            streams = self._watched()
            if not self._waiter.covers(streams):
                self._waiter.use(self._client.dialer.once(CONNECT_S))
            until = min(give_up, self._leases.due(), self._mover.due(), now + LONGEST_SLEEP_S)
            fresh = self._waiter.sleep(streams, until - now)
        except FAILURES as error:
            self._went_down(error)
            return False
        self._mover.heard(fresh)
        for owned in self._owned.values():
            if owned.stream in fresh:
                owned.behind = True
        return any(key in self._leases.news for key in fresh)

    def _watched(self) -> dict[bytes, bytes]:
        """What to wake up for. A partition without credit is left out once it is known to have more."""
        streams = {**self._leases.news, **self._mover.watched()}
        for owned in self._owned.values():
            if not owned.behind and owned.give_back_by is None:
                streams[owned.stream] = owned.last
        return streams

    # --- ending -------------------------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._stale:
            raise closed(self._client.cluster, "stale")
        if self._closed or self._closing:
            raise closed(self._client.cluster)

    def _end(self, deadline: float) -> None:
        """Settle what was asked for, hand everything back, in order. The lock is held. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._leave(max(LEAST_CLOSE_S, deadline - time.monotonic()))
        finally:
            self._owned.clear()
            if self._wire is not None:
                self._wire.abort()
                self._wire = None
            with self._wake_guard:
                self._waiter.close()
            self._forget(self)

    def _leave(self, timeout_s: float) -> None:
        """What does not get through ends with the lease."""
        if self._wire is None:
            return
        try:
            self._pipeline.hear(self._wire)
            self._wire.exchange([*(command for command, _ in self._pipeline.outbox), *self._leases.leaving()], timeout_s)
        except FAILURES:
            self._pipeline.forget()
