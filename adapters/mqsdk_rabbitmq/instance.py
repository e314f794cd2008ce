"""One instance of a broadcast as the server sees it: a connection, and a feed for every partition. In place of `Hub` for its consumer.

Everything runs on the loop's thread; what layer 2 is to hear goes into the inbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import pika

from mqsdk.spi import BackendError, ConsumerEvent, Gap, Link, Partition
from mqsdk_rabbitmq import topology
from mqsdk_rabbitmq.catalog import held
from mqsdk_rabbitmq.errors import NOT_FOUND
from mqsdk_rabbitmq.feed import EPOCH, Feed
from mqsdk_rabbitmq.member import CLEAN_CLOSE_S, TICK_S, Inbox
from mqsdk_rabbitmq.owned import Gained
from mqsdk_rabbitmq.repairs import REPAIR_S
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.slot import AGAIN_S
from mqsdk_rabbitmq.wire import Connection, Loop, Wire


class Instance:
    """feeds: whose queues are there. positions: by partition, where to go on; others begin at the end, those that cannot do so with a gap.

    targets: where to connect, with `heartbeat_s`.
    """

    def __init__(
        self,
        dialer: Dialer,
        feeds: Sequence[Feed],
        positions: Mapping[int, int],
        inbox: Inbox,
        targets: Sequence[pika.ConnectionParameters],
        heartbeat_s: int,
    ) -> None:
        self.prefetch = dialer.settings.own.prefetch
        self.done = threading.Event()
        self.feeds = {feed.partition: feed for feed in feeds}
        self._dialer = dialer
        self._inbox = inbox
        self._heartbeat_s = heartbeat_s
        self._is_closing = False
        self._is_up = True
        self.loop = Loop(f"broadcast-{feeds[0].partition.topic}")
        self._wire = Wire(self.loop, dialer.cluster, dialer.settings, targets, self._connected, self._went_down)
        self.loop.broken = self._broken
        for feed in feeds:
            position = positions.get(feed.partition.number)
            has_gap = position is not None and feed.is_new
            inbox.gained(Gained(feed.begin(self, position), True, has_gap))
        self.loop.call(self._wire.open)
        self.loop.call(self._tick)
        self.loop.start()

    # --- what feeds use -----------------------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        return self._wire.connection

    def put(self, event: ConsumerEvent) -> None:
        self._inbox.put(event)

    def failed(self, feed: Feed, error: Exception) -> None:
        """The server has ended its channel."""
        if getattr(error, "reply_code", 0) == NOT_FOUND:
            self.repair(feed)
        else:
            self.loop.later(AGAIN_S, feed.attach)

    def repair(self, feed: Feed) -> None:
        """Its queue is not there any more: declare it again, and let layer 2 know."""
        if not self._is_closing:
            threading.Thread(target=self._declare_again, args=(feed,), name="mqsdk-rabbitmq-repair", daemon=True).start()

    def _declare_again(self, feed: Feed) -> None:
        """On a thread of its own: it waits for answers."""
        failure: BackendError | None = None
        is_gone = True
        kind = self._dialer.settings.own.queues
        try:
            with self._dialer.session(time.monotonic() + REPAIR_S) as session:
                is_gone = session.queue(feed.queue) is None  # else its node was lost, and another one has it
                with held(session, kind) as holder:
                    about = holder.catalog.topics.get(feed.partition.topic)
                topology.make_feed(session, feed.partition, feed.queue, "" if about is None else about.mark, kind)
        except BackendError as error:
            failure = error
        self.loop.call(lambda: self._declared(feed, is_gone, failure))

    def _declared(self, feed: Feed, is_gone: bool, failure: BackendError | None) -> None:
        if failure is not None:
            self._wire.cut(failure)  # to begin anew, with the pauses of a reconnect
            return
        if is_gone:
            position = feed.missed()
            self.put(Gap(feed.partition, EPOCH, position, position + 1, "truncated"))
        feed.attach()

    # --- what the consumer uses, by `loop.call` -----------------------------------------------------------------------------------------

    def slot(self, partition: Partition) -> Feed:
        return self.feeds[partition]

    def leave_group(self) -> None:
        """There is none."""

    def thaw(self) -> None:
        """Nobody else takes what a frozen instance has."""

    def close(self, deadline: float) -> None:
        self._is_closing = True
        self.loop.later(max(0.0, min(deadline - time.monotonic(), CLEAN_CLOSE_S)), self._close_now)
        self._wire.close(self.done.set)

    def _close_now(self) -> None:
        if not self.done.is_set():
            self._wire.cut(ConnectionError("closed"))
            self.done.set()

    def crash(self) -> None:
        """As a kill of the process."""
        self._wire.cut(ConnectionError("crashed"))
        self._wire.close(self.done.set)

    def vanish(self) -> None:
        """In a forked child."""
        self._wire.vanish()
        self.loop.vanish()

    # --- the link -----------------------------------------------------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        connection.on_chunk = self._inbox.look
        if not self._is_up:
            self._is_up = True
            self.put(Link(up=True))
        for feed in self.feeds.values():
            feed.attach()

    def _went_down(self, error: BackendError, _: bool) -> None:
        for feed in self.feeds.values():
            feed.detach()
        if self._is_up and not self._is_closing:
            self._is_up = False
            self.put(Link(up=False, error=error))

    def _broken(self, error: Exception) -> None:
        self._wire.cut(error)
        self.loop.later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self.done.is_set():
            return
        self.loop.later(TICK_S, self._tick)
        connection = self._wire.connection
        if connection is not None and 0 < connection.heard < time.monotonic() - 2 * self._heartbeat_s:
            self._wire.cut(TimeoutError("the server is not heard of"))
