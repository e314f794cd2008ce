"""Moves what waits in the delay topics of one cluster: when its time has come, on to the next topic or to the one it is meant for.

An ordinary consumer of a group that all processes with consumers share. A record is settled when its copy is confirmed, so a mover that
dies repeats what it had moved and not settled yet (a tenth of a second's worth), and loses nothing. Of a partition it reads no further than
what is due within two seconds. Decisions are those of `core.delay` and `core.shelf`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from itertools import count

from mqsdk.core import delay
from mqsdk.core.shelf import CHUNK_BYTES, Shelf
from mqsdk.errors import BackendError, MqError
from mqsdk.events import Event, GapSeen
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.dispatch import Dispatch, Sink
from mqsdk.runtime.loop import LAST_ANSWER_S, LONGEST_POLL_S, RESTART_FIRST_S, RESTART_LONGEST_S
from mqsdk.runtime.targets import Targets
from mqsdk.spi import Assigned, Batch, Consumer, ConsumerEvent, Gap, Lost, Partition, Progress, Revoking, Settled

log = logging.getLogger("mqsdk.delay")

POLL_RECORDS = 2000
SETTLE_EVERY_S = 0.1  # while a partition is busy; what a crash may repeat
MARGIN_S = 0.05  # the last settle of a revoked partition must arrive before the deadline


class Mover:
    """One per cluster and process. `drain` and `exchange` may be called from any thread; `run`, or `step` without a thread, by one."""

    def __init__(
        self,
        cluster: str,
        *,
        connect: Callable[[], Consumer],
        make_targets: Callable[[Sink], Targets],
        clock: Clock,
        observe: Callable[[Event], None],
        lease_s: float,
        sparse_bytes: int,
    ) -> None:
        """connect: joins the group of movers. Raises what it raises."""
        self.cluster = cluster
        self._connect = connect
        self._clock = clock
        self._observe = observe
        self._sparse_bytes = sparse_bytes
        self._longest_poll_s = min(LONGEST_POLL_S, lease_s / 3)
        self._sink = Sink()
        self._targets = make_targets(self._sink)
        self._dispatch = Dispatch(cluster, self._targets, self._sink, clock, observe)
        self._consumer = connect()
        self._sink.wake = self._wake
        self._shelves: dict[Partition, Shelf] = {}
        self._tokens = count()
        self._told: dict[int, Progress] = {}  # settles without an answer
        self._stored: dict[Partition, int] = {}  # watermarks that are stored and were not asked for yet
        self._drain_by: float | None = None
        self._exchanges: deque[tuple[float, Callable[[], None]]] = deque()
        self._restarts = 0
        self.failure = ""
        self.finished = threading.Event()
        self.joined = threading.Event()

    @property
    def owned(self) -> list[Partition]:
        """Partitions of delay topics that this mover has."""
        return list(self._shelves)

    @property
    def held(self) -> int:
        """Messages that it has read and not moved."""
        return sum(shelf.held for shelf in list(self._shelves.values()))

    # --- control, any thread ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._consumer.wake()

    def drain(self, deadline: float) -> None:
        """Publish nothing more, wait for answers, settle, hand back; `finished` is set then, at the deadline (monotonic) at the latest."""
        self._drain_by = deadline if self._drain_by is None else min(deadline, self._drain_by)
        self._consumer.wake()

    def exchange(self, deadline: float, done: Callable[[], None]) -> None:
        """Hand everything back and go on with what `connect` gives then: the cluster has another client. done: the old one is closed."""
        self._exchanges.append((deadline, done))
        self._consumer.wake()

    def take_stored(self) -> dict[Partition, int]:
        """Partition -> watermark that is stored, of those that have moved on since the last call."""
        return {partition: self._stored.pop(partition) for partition in list(self._stored)}

    def forget(self, cluster: str) -> None:
        """Another cluster has another client now."""
        self._targets.forget(cluster)

    # --- the thread -------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.finished.is_set():
            try:
                self.step(self._longest_poll_s)
            except Exception as error:
                self._restart(error)

    def step(self, longest_s: float) -> bool:
        """One round: hear what happened, move what is due, settle what has moved. False when nothing happened."""
        events = self._poll(longest_s)
        for event in events:
            self._hear(event)
        results = self._dispatch.take_results()
        moved = self._dispatch.move()
        self._ask_back()
        told = self._settle()
        self._ask_for_more()
        self._end_when_done()
        return bool(events or results or moved or told)

    def due(self) -> float | None:
        """Monotonic time at which `step` has something to do by time alone; None: never."""
        now, now_ms = self._clock.mono(), self._clock.wall_ms()
        times_ms = [shelf.looks_again_ms(now_ms) for shelf in self._shelves.values()]
        if not self._dispatch.is_full:
            times_ms.append(self._dispatch.next_ms())
        moments = [now + max(0, at_ms - now_ms) / 1000 for at_ms in times_ms if at_ms is not None]
        moments += [shelf.settle_not_before for shelf in self._shelves.values() if shelf.is_dirty]
        moments += [shelf.deadline for shelf in self._shelves.values() if shelf.deadline is not None]
        if self._drain_by is not None:
            moments.append(self._drain_by)
        return min(moments, default=None)

    def _poll(self, longest_s: float) -> list[ConsumerEvent]:
        self._sink.sleeping = True
        due = self.due()
        wait = longest_s if due is None else max(0.0, min(longest_s, due - self._clock.mono()))
        events = self._consumer.poll(POLL_RECORDS, 0.0 if self._sink.items else wait)
        self._sink.sleeping = False
        self.joined.set()
        return events

    # --- what happened ----------------------------------------------------------------------------------------------------------

    def _hear(self, event: ConsumerEvent) -> None:
        if isinstance(event, Batch):
            shelf = self._current(event.partition, event.epoch)
            if shelf is not None:
                self._take(shelf, event)
        elif isinstance(event, Assigned):
            self._lose(event.partition)
            self._shelves[event.partition] = Shelf(event)
            self._restarts, self.failure = 0, ""
        elif isinstance(event, Revoking):
            shelf = self._current(event.partition, event.epoch)
            if shelf is not None:
                self._end(shelf, event.deadline - MARGIN_S)
        elif isinstance(event, Lost):
            if self._current(event.partition, event.epoch) is not None:
                self._lose(event.partition)
            self._told = {token: one for token, one in self._told.items() if (one.partition, one.epoch) != event[:2]}
        elif isinstance(event, Gap):
            self._skip(event)
        elif isinstance(event, Settled):
            self._settled(event)

    def _current(self, partition: Partition, epoch: int) -> Shelf | None:
        shelf = self._shelves.get(partition)
        return shelf if shelf is not None and shelf.epoch == epoch else None

    def _take(self, shelf: Shelf, batch: Batch) -> None:
        if shelf.ending:
            return
        for held in shelf.take(batch, self._clock.wall_ms()):
            self._dispatch.put(held)

    def _skip(self, gap: Gap) -> None:
        shelf = self._current(gap.partition, gap.epoch)
        topic, number = gap.partition
        self._observe(GapSeen(topic, delay.GROUP, self.cluster, number, gap.start, gap.stop, gap.reason))
        if shelf is not None:
            shelf.skip(gap.start, gap.stop)

    def _lose(self, partition: Partition) -> None:
        shelf = self._shelves.pop(partition, None)
        if shelf is not None:
            shelf.gone = shelf.ending = True
            self._dispatch.drop_ended()  # else it would keep them until they are due

    def _settled(self, event: Settled) -> None:
        progress = self._told.pop(event.token, None)
        shelf = self._current(event.partition, event.epoch)
        if progress is None:
            return
        if event.outcome == "stored":
            self._stored[progress.partition] = progress.watermark
        elif event.outcome == "failed" and shelf is not None:
            shelf.again(progress)

    # --- settling ---------------------------------------------------------------------------------------------------------------

    def _settle(self) -> int:
        """Tell what has moved, for the last time where nothing of it is under way any more; of how many partitions."""
        now, before = self._clock.mono(), len(self._told)
        for shelf in [shelf for shelf in self._shelves.values() if shelf.ending]:
            if not shelf.flying or (shelf.deadline is not None and shelf.deadline <= now):
                self._tell(shelf, final=True)
                self._lose(shelf.partition)
        for shelf in self._shelves.values():
            if shelf.is_dirty and (shelf.settle_not_before <= now or not (shelf.held or shelf.ending)):
                shelf.settle_not_before = now + SETTLE_EVERY_S
                self._tell(shelf, final=False)
        return len(self._told) - before

    def _tell(self, shelf: Shelf, final: bool) -> None:
        progress = shelf.progress(next(self._tokens), self._sparse_bytes, final)
        self._told[progress.token] = progress
        try:
            self._consumer.settle(progress)
        except BackendError:
            del self._told[progress.token]
            shelf.again(progress)

    def _ask_for_more(self) -> None:
        now_ms = self._clock.wall_ms()
        for shelf in self._shelves.values():
            wanted = shelf.credit(now_ms)
            if wanted is not None:
                self._consumer.credit(shelf.partition, wanted, CHUNK_BYTES if wanted else 0)

    # --- ends -------------------------------------------------------------------------------------------------------------------

    def _end(self, shelf: Shelf, deadline: float) -> None:
        shelf.ending = True
        shelf.deadline = deadline if shelf.deadline is None else min(deadline, shelf.deadline)

    def _ask_back(self) -> None:
        """Hand everything back, because it is to stop or to use another client."""
        deadlines = [deadline for deadline, _ in self._exchanges]
        if self._drain_by is not None:
            deadlines.append(self._drain_by)
        for shelf in self._shelves.values() if deadlines else ():
            self._end(shelf, min(deadlines))

    def _end_when_done(self) -> None:
        now = self._clock.mono()
        waits = bool(self._shelves or self._told)
        if self._drain_by is not None:
            if not waits or now >= self._drain_by:
                self.finished.set()
        elif self._exchanges and (not waits or now >= min(deadline for deadline, _ in self._exchanges) + LAST_ANSWER_S):
            self._use_another_client(now)

    def _use_another_client(self, now: float) -> None:
        asked, self._exchanges = self._exchanges, deque()
        self._lose_all()
        self._close_consumer(now + LAST_ANSWER_S)
        self._targets.forget(self.cluster)
        for _, done in asked:
            done()
        self._consumer = self._connect()

    def _lose_all(self) -> None:
        for partition in list(self._shelves):
            self._lose(partition)
        self._told = {}

    def _restart(self, error: Exception) -> None:
        """The consumer, or this loop, failed: everything comes again to whoever owns it next."""
        wait = min(RESTART_FIRST_S * 2.0 ** min(self._restarts, 10), RESTART_LONGEST_S)
        self._restarts += 1
        self.failure = f"{type(error).__name__}: {error}" if isinstance(error, MqError) else type(error).__name__
        log.error(
            "cluster %s: delayed messages are not moved by this process; it tries again in %.0f s", self.cluster, wait,
            exc_info=not isinstance(error, BackendError),
        )  # fmt: skip
        self._lose_all()
        self._close_consumer(self._clock.mono() + wait)
        end = self._clock.mono() + wait
        while self._drain_by is None and (left := end - self._clock.mono()) > 0:
            self._clock.sleep(min(left, 0.1))
        if self._drain_by is not None:
            self.finished.set()
            return
        try:
            self._consumer = self._connect()
        except Exception as failed:  # the closed consumer refuses the next poll, which leads here again after a longer wait
            log.error("cluster %s: delayed messages: cannot connect: %s", self.cluster, type(failed).__name__)

    def _close_consumer(self, deadline: float) -> None:
        try:
            self._consumer.close(deadline)
        except Exception as error:
            log.warning("cluster %s: closing the mover's consumer failed: %s", self.cluster, type(error).__name__)

    def close(self, deadline: float) -> None:
        """After `run` has ended: leave the group."""
        self._close_consumer(deadline)
        self._targets.close()
