"""One cluster of kind `rabbitmq`: a server or several of one cluster, and everything handed out over connections to it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from mqsdk.spi import (
    Admin,
    Backend,
    BackendError,
    BackendHealth,
    Capabilities,
    Consumer,
    EventSink,
    Finding,
    MissingExtra,
    Producer,
    Subscription,
)
from mqsdk_rabbitmq.names import check_group, check_topic
from mqsdk_rabbitmq.options import Settings

if TYPE_CHECKING:
    from mqsdk_rabbitmq.admin import RabbitAdmin
    from mqsdk_rabbitmq.consumer import RabbitConsumer
    from mqsdk_rabbitmq.feed import Feed
    from mqsdk_rabbitmq.producer import Publisher
    from mqsdk_rabbitmq.session import Dialer

CAPABILITIES = Capabilities(
    settle="receipt",
    publish="async",
    history=False,
    replay=False,
    read_by_position=False,
    by_time=False,
    keeps_topic=False,
    companions=True,
    broadcast=True,
    attempts=False,
    rejects_in_order=False,
    exact_lag=False,
    delay="native",
    exact_delay=False,
    max_payload=16 << 20,
)
UNKNOWN_GUARANTEE = "rabbitmq: what is confirmed survives as long as the queues' nodes do"


class RabbitBackend(Backend):
    """Constructing touches nothing."""

    kind: ClassVar[str] = "rabbitmq"

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._state = "new"
        self._dialer: Dialer | None = None
        self._publisher: Publisher | None = None
        self._consumers: set[RabbitConsumer] = set()  # strong: one that nobody holds any more still owns partitions
        # Of broadcasts that have ended in this process: those of the last one by topic and group, and those of earlier ones.
        self._left: dict[tuple[str, str], list[Feed]] = {}
        self._unwanted: list[Feed] = []

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def open(self, deadline: float) -> None:
        """Connect once, to see that it can be done. Raises also ConfigError for files of `tls`."""
        if self._dialer is not None:
            return
        try:
            from mqsdk_rabbitmq.inspection import check
            from mqsdk_rabbitmq.session import HEARTBEAT_S, Dialer
            from mqsdk_rabbitmq.wire import parameters
        except ImportError as error:
            raise MissingExtra("rabbitmq", where=f"cluster {self.name} (rabbitmq)") from error
        dialer = Dialer(self.name, self._settings, parameters(self._settings, HEARTBEAT_S, "mqsdk admin"))
        check(dialer, deadline)
        self._dialer = dialer
        self._state = "open"
        _open_backends.add(self)

    def close(self, deadline: float) -> None:
        for consumer in list(self._consumers):
            consumer.close(deadline)
        self._drop_feeds(deadline)
        if self._publisher is not None:
            self._publisher.close(deadline)
        if self._state == "open":
            _open_backends.discard(self)
        if self._state != "stale":
            self._state = "closed"

    def producer(self, events: EventSink) -> Producer:
        from mqsdk_rabbitmq.producer import Publisher
        from mqsdk_rabbitmq.wire import parameters

        dialer = self._opened()
        if self._publisher is None:
            self._publisher = Publisher(dialer, parameters(self._settings, PUBLISH_HEARTBEAT_S, "mqsdk publish"))
        return self._publisher.producer(events)

    def consumer(self, subscription: Subscription) -> Consumer:
        dialer = self._opened()
        check_group(subscription.group)
        for topic in subscription.topics:
            check_topic(topic)
        consumer = self._instance(dialer, subscription) if subscription.broadcast else self._member(dialer, subscription)
        self._consumers.add(consumer)
        return consumer

    def _member(self, dialer: Dialer, subscription: Subscription) -> RabbitConsumer:
        from mqsdk_rabbitmq.consumer import RabbitConsumer
        from mqsdk_rabbitmq.member import Hub

        partitions = self._admin(dialer).ensure_group_of(subscription.topics[0], subscription.group, subscription.start)
        return RabbitConsumer(dialer, subscription, partial(Hub, dialer, subscription, partitions), self._consumers.discard)

    def _instance(self, dialer: Dialer, subscription: Subscription) -> RabbitConsumer:
        """Its queues outlive it, for a consumer that takes its place in this process; those that nobody wants go with the backend."""
        from mqsdk_rabbitmq.consumer import RabbitConsumer
        from mqsdk_rabbitmq.instance import Instance

        topic, positions = subscription.topics[0], dict(subscription.positions)
        left = self._left.get((topic, subscription.group), [])
        wanted = {feed.partition.number: feed for feed in left if feed.partition.number in positions}
        feeds = self._admin(dialer).make_feeds(topic, wanted)
        self._left.pop((topic, subscription.group), None)  # only now: a failed attempt is repeated
        self._unwanted += [feed for feed in left if feed not in feeds]

        def forget(consumer: RabbitConsumer) -> None:
            self._consumers.discard(consumer)
            self._left.setdefault((topic, subscription.group), []).extend(feeds)

        return RabbitConsumer(dialer, subscription, partial(Instance, dialer, feeds, positions), forget)

    def _drop_feeds(self, deadline: float) -> None:
        """On a thread of its own, for it waits for answers; those whose deletion does not succeed expire."""
        feeds = [*self._unwanted, *(feed for left in self._left.values() for feed in left)]
        self._unwanted, self._left = [], {}
        if feeds and self._dialer is not None and self._state == "open":
            admin = self._admin(self._dialer)

            def drop() -> None:
                with suppress(BackendError):
                    admin.drop_feeds(feeds)

            thread = threading.Thread(target=drop, name="mqsdk-rabbitmq-drop", daemon=True)
            thread.start()
            thread.join(max(0.0, deadline - time.monotonic()))

    def admin(self) -> Admin:
        return self._admin(self._opened())

    def health(self) -> BackendHealth:
        """Version, latency, and what the cluster's settings mean for confirmed messages."""
        if self._dialer is None or self._state != "open":
            return BackendHealth(False, guarantee=UNKNOWN_GUARANTEE, findings=(Finding("warn", "closed", "the cluster is not open"),))
        from mqsdk_rabbitmq.inspection import health

        return health(self._dialer)

    def _admin(self, dialer: Dialer) -> RabbitAdmin:
        from mqsdk_rabbitmq.admin import RabbitAdmin

        return RabbitAdmin(dialer, self._check, self._deleted)

    def _deleted(self, topic: str) -> None:
        if self._publisher is not None:
            self._publisher.forget(topic)

    def _check(self) -> None:
        if self._state != "open":
            from mqsdk_rabbitmq.errors import closed

            raise closed(self.name, self._state if self._state == "stale" else "closed")

    def _opened(self) -> Dialer:
        if self._dialer is None:
            from mqsdk_rabbitmq.errors import closed

            raise closed(self.name)
        self._check()
        return self._dialer

    def crash(self) -> None:
        """Cut every socket and tell the server nothing, as a kill of the process does. For tests of the seam."""
        for consumer in list(self._consumers):
            consumer.crash()
        if self._publisher is not None:
            self._publisher.crash()
        self._state = "closed"

    def vanish(self) -> None:
        """In a forked child: close the copies of the sockets, and refuse from now on."""
        self._state = "stale"
        for consumer in list(self._consumers):
            consumer.vanish()
        if self._publisher is not None:
            self._publisher.vanish()


PUBLISH_HEARTBEAT_S = 5

# Backends whose copies a fork makes stale. Module-wide because the interpreter's hook is, and cannot be taken back.
_open_backends: weakref.WeakSet[RabbitBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_open_backends):
        with suppress(Exception):  # nobody would hear of it, and the others must be given up all the same
            backend.vanish()
    _open_backends.clear()


os.register_at_fork(after_in_child=_forget_all)
