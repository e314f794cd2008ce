"""Reading one subscription: ownership from the group's seat, records from the partitions' readers, sleep on FIFOs."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

from mqsdk.spi import (
    Assigned,
    Batch,
    Consumer,
    ConsumerEvent,
    Gap,
    Lost,
    Partition,
    Progress,
    Renewed,
    Revoking,
    Settled,
    StateError,
    Subscription,
)
from mqsdk_log.engine.cursors import BLOB_LIMIT, Cursor
from mqsdk_log.engine.errors import CorruptRange, LockTimeout, LogError, NoSuchTopic, OutOfRange, reason
from mqsdk_log.engine.holding import Appeared, Dropped, Extended, Gained, Recalled, Troubled
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.seat import Mark
from mqsdk_log.engine.wake import BOUND_S, CROWDED_S, Waiter
from mqsdk_log.errors import KIND, translated
from mqsdk_log.moving import Mover
from mqsdk_log.owned import FAILURES, Owned, drain, is_alone, poke
from mqsdk_log.records import LogRecord
from mqsdk_log.seating import begun, seat_of

OPEN_PATIENCE_S = 0.2  # for the lock on the set of topics, by a thread that has leases to renew; tried again with the next look
GLANCE_S = 0.02  # how often a consumer that never sleeps looks for another assignment: 2 us each
Forget = Callable[["LogConsumer"], None]


class LogConsumer(Consumer):
    """`poll`, `credit` and `settle` by one thread; `wake` and `close` by any."""

    def __init__(
        self, cluster: str, log: Log, subscription: Subscription, mark: Mark | None, forget: Callable[[LogConsumer], None]
    ) -> None:
        """Joins the group. Raises BackendError when a topic or the group's progress is missing."""
        self._cluster = cluster
        self._forget = forget
        self._busy = threading.Lock()  # who has it may touch the seat, the readers and the descriptors
        self._wake_guard = threading.Lock()
        self._events: list[ConsumerEvent] = []
        self._owned: dict[Partition, Owned] = {}
        self._woken = self._sleeping = self._closing = self._closed = self._stale = False
        with translated(cluster):
            self._log = log
            self._mover = Mover(log.report)
            self._topics = {topic: log.topic(topic) for topic in begun(log, subscription)}
            self._seat = seat_of(log, subscription, self._topics, mark)
            self._waiters: list[Waiter] = []
            try:
                self._waiters.extend(topic.waiter() for topic in self._topics.values())
                self._wake_fds = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            except BaseException:
                for waiter in self._waiters:
                    waiter.close()
                self._seat.leave()
                raise
        self._glance_at = 0.0
        self._poll: select.poll | None = None
        self._polled_peer = -1

    # --- what layer 2 calls ----------------------------------------------------------------------------------------------------------

    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        self._check_usable()
        give_up = time.monotonic() + timeout_s
        with self._busy:
            try:
                with translated(self._cluster):
                    return self._collect(max_records, give_up)
            finally:
                if self._closing:
                    self._end()

    def wake(self) -> None:
        self._woken = True
        if self._sleeping:
            with self._wake_guard:  # the descriptor is not closed, and so not somebody else's, while it is written to
                if not self._closed and not self._stale:
                    poke(self._wake_fds[1])

    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        owned = self._owned.get(partition)
        if owned is not None:
            owned.records, owned.bytes = records, bytes

    def settle(self, progress: Progress) -> None:
        if self._stale:
            self._check_usable()
        with self._busy, translated(self._cluster):
            self._events.append(self._settled(progress))

    def close(self, deadline: float) -> None:
        if self._stale:
            return
        self._closing = True
        self.wake()
        # A poll that is running ends by itself and closes: whoever holds the lock does it.
        if self._busy.acquire(timeout=max(0.0, deadline - time.monotonic())):
            try:
                self._end()
            finally:
                self._busy.release()

    def vanish(self) -> None:
        """Close the descriptors and fail from now on: a forked child gives up its copies, the parent keeps its locks. Takes no lock."""
        if not (self._closed or self._stale):  # once: by then its descriptors may be somebody else's
            self._stale = True
            self._seat.abandon()
            for fd in self._wake_fds:
                os.close(fd)

    # --- collecting --------------------------------------------------------------------------------------------------------------------

    def _collect(self, max_records: int, give_up: float) -> list[ConsumerEvent]:
        while True:
            now = time.monotonic()
            restless = now >= self._glance_at and self._glance(now)
            if restless or now >= self._seat.due:
                self._turn(now, restless)
            self._mover.move(self._owned.values())
            self._fetch(max_records)
            if self._events or self._woken or self._closing or now >= give_up:
                self._woken = False
                events, self._events = self._events, []
                return events
            self._sleep(min(give_up, self._seat.due))

    def _glance(self, now: float) -> bool:
        self._glance_at = now + GLANCE_S
        return self._seat.is_restless()

    def _turn(self, now: float, nudged: bool) -> None:
        put = self._events.append
        for change in self._seat.turn(now, nudged):
            match change:
                case Extended(valid_until):
                    put(Renewed(valid_until))
                case Gained():
                    self._gain(change)
                case Recalled(holding):
                    partition = Partition(*holding.key)
                    self._owned[partition].recalled = True
                    put(Revoking(partition, holding.epoch, holding.give_back_by))
                case Dropped(holding):
                    self._lose(Partition(*holding.key))
                case Appeared(topic):
                    self._take_up(topic)
                case Troubled(what):
                    self._log.report(what)

    def _take_up(self, name: str) -> None:
        try:
            topic = self._log.topic(name, time.monotonic() + OPEN_PATIENCE_S)
        except (NoSuchTopic, LockTimeout):
            return  # it is being deleted: the group's progress in it goes first. Or others are at it: the next look tells of it again
        self._waiters.append(topic.waiter())
        self._topics[name] = topic
        self._poll = None
        self._seat.take_up(name, topic.wake_all)

    def _gain(self, gained: Gained) -> None:
        holding, left = gained.holding, gained.left
        partition = Partition(*holding.key)
        try:
            log = self._topics[partition.topic].partition(partition.number)
            end = log.end()
        except FAILURES as error:
            self._bear(partition, error, lambda: self._seat.set_aside(holding.key))
            return
        # A position above the end was settled in a log that then lost its tail to a power failure; recovery never hands such an offset out
        # again, so beginning at the end skips nothing.
        position = min(left.watermark, end)
        self._owned[partition] = Owned(partition, holding.epoch, log, log.reader(position, LogRecord))
        self._events.append(Assigned(partition, holding.epoch, position, left.sparse, gained.valid_until, left.clean, log.end()))

    def _lose(self, partition: Partition) -> None:
        owned = self._owned.pop(partition, None)
        if owned is not None:
            owned.reader.close()
            self._events.append(Lost(partition, owned.epoch))

    def _fetch(self, max_records: int) -> None:
        budget = max_records
        for owned in list(self._owned.values()) if budget > 0 else ():
            if owned.is_open:
                budget -= self._deliver(owned, budget)
                if budget <= 0:
                    # To the back of the queue, so that none starves.
                    self._owned[owned.partition] = self._owned.pop(owned.partition)
                    break

    def _deliver(self, owned: Owned, budget: int) -> int:
        try:
            records = owned.reader.read(min(budget, owned.records), owned.bytes)
        except OutOfRange as error:
            self._skip(owned, error.first, "retention")
            return 0
        except CorruptRange as error:
            self._skip(owned, error.stop, "corrupt")
            return 0
        except FAILURES as error:
            self._bear(owned.partition, error, owned.rest)
            return 0
        if not records:
            return 0
        size = sum(map(len, [record.value for record in records]))
        size += sum(map(len, filter(None, [record.key for record in records])))
        owned.records -= len(records)
        owned.bytes -= size
        self._events.append(Batch(owned.partition, owned.epoch, records, size))
        return len(records)

    def _bear(self, partition: Partition, error: Exception, rest: Callable[[], bool]) -> None:
        """One partition cannot be read: leave it alone for a while and tell it once; the others go on."""
        if not is_alone(error):
            raise error
        if rest():
            self._log.report(f"{partition.topic}/{partition.number} cannot be read ({reason(error)}); tried again until it succeeds")

    def _skip(self, owned: Owned, stop: int, reason: str) -> None:
        start = owned.reader.position
        owned.reader.seek(stop)
        if stop > start:
            self._events.append(Gap(owned.partition, owned.epoch, start, stop, reason))

    # --- settling ----------------------------------------------------------------------------------------------------------------------

    def _settled(self, progress: Progress) -> Settled:
        partition, epoch, token = progress.partition, progress.epoch, progress.token
        owned = self._owned.get(partition)
        if self._closed or self._closing or owned is None or owned.epoch != epoch:
            return Settled(partition, epoch, token, "stale")
        if len(progress.sparse) > BLOB_LIMIT:
            return Settled(partition, epoch, token, "failed", f"the sparse blob has over {BLOB_LIMIT} bytes")
        cursor = self._cursor(progress)
        try:
            stored = self._seat.store(partition, epoch, cursor, final=progress.final)
        except (LogError, OSError) as error:
            return Settled(partition, epoch, token, "failed", type(error).__name__)
        if not stored:
            for holding in self._seat.drop(partition):
                self._lose(Partition(*holding.key))
            return Settled(partition, epoch, token, "stale")
        if progress.final:
            self._owned.pop(partition).reader.close()
        return Settled(partition, epoch, token, "stored")

    def _cursor(self, progress: Progress) -> Cursor:
        before = self._seat.held[progress.partition].stored
        watermark = max(before.watermark, progress.watermark)  # within an epoch it never falls
        return Cursor(
            watermark, progress.epoch, high=max(before.high, progress.high, watermark), sparse=progress.sparse, clean=progress.final
        )

    # --- sleeping ----------------------------------------------------------------------------------------------------------------------

    def _sleep(self, until: float) -> None:
        """Wait for an append, a wake-up, a neighbour's death or `until`.

        Who is woken reads first and looks at the group before the next sleep: an append and the group wake through the same FIFO, and a
        look at the group costs more than the record that was waited for.
        """
        for waiter in self._waiters:
            waiter.arm()
        self._sleeping = True
        try:
            # Looked at after arming: what came before is seen here, what comes later wakes.
            if self._seat.is_restless():
                self._turn(time.monotonic(), True)
            if self._events or self._woken or self._closing or any(owned.has_more for owned in self._owned.values()):
                return
            crowded = any(waiter.fileno() < 0 for waiter in self._waiters)  # nobody can wake the 65th consumer of a topic
            due_s = self._mover.wait_s(self._owned.values())
            wait_s = min(until - time.monotonic(), due_s, CROWDED_S if crowded else BOUND_S)
            self._wait(max(wait_s, 0.0))
        finally:
            self._sleeping = False
            for waiter in self._waiters:
                waiter.disarm()
                waiter.drain()

    def _wait(self, wait_s: float) -> None:
        fds = {fd for fd, _ in self._poller().poll(wait_s * 1000)}
        if self._wake_fds[0] in fds:
            drain(self._wake_fds[0])
        if self._polled_peer in fds:
            self._seat.hang_up()
            self._poll = None

    def _poller(self) -> select.poll:
        if self._poll is None or self._polled_peer != self._seat.watched_fd:
            self._poll = select.poll()
            self._polled_peer = self._seat.watched_fd
            for fd in (self._wake_fds[0], *(waiter.fileno() for waiter in self._waiters)):
                if fd >= 0:
                    self._poll.register(fd, select.POLLIN)
            if self._polled_peer >= 0:
                self._poll.register(self._polled_peer, 0)  # only the hang-up
        return self._poll

    # --- ending ------------------------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._stale:
            raise StateError(
                "the process has forked since this consumer was made",
                where=f"cluster {self._cluster} ({KIND})",
                fix="open the backend again in the child",
                state="stale",
            )
        if self._closed or self._closing:
            raise StateError("the consumer is closed", where=f"cluster {self._cluster} ({KIND})", state="closed")

    def _end(self) -> None:
        """Hand everything back, in order. The lock is held. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            with translated(self._cluster):
                for owned in self._owned.values():
                    owned.reader.close()
                self._owned.clear()
                self._seat.leave()
        finally:
            for waiter in self._waiters:
                waiter.close()
            with self._wake_guard:
                for fd in self._wake_fds:
                    os.close(fd)
            self._forget(self)
