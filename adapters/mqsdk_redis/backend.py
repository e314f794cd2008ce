"""One cluster of kind `redis`: a server, its connections, and everything handed out over them."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from mqsdk.spi import (
    Admin,
    Backend,
    BackendHealth,
    Capabilities,
    Consumer,
    EventSink,
    Finding,
    MissingExtra,
    Producer,
    Subscription,
)
from mqsdk_redis.names import check_name
from mqsdk_redis.options import Settings

if TYPE_CHECKING:
    from mqsdk_redis.client import Client
    from mqsdk_redis.consumer import RedisConsumer

CAPABILITIES = Capabilities(
    settle="receipt", publish="inline", companions=True, broadcast=True, amend=True, delay="native", sparse_bytes=4096
)
UNKNOWN_GUARANTEE = "redis: what is acknowledged survives as long as the server's own persistence keeps it"


class RedisBackend(Backend):
    """Constructing touches nothing."""

    kind: ClassVar[str] = "redis"

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._client: Client | None = None
        self._consumers: set[RedisConsumer] = set()  # strong: one that nobody holds any more still holds its leases

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def open(self, deadline: float) -> None:
        """Connect, and refuse a server that may delete or forget what it holds. Raises also ConfigError for files of `tls`."""
        if self._client is not None:
            return
        try:
            from mqsdk_redis.client import Client
            from mqsdk_redis.inspection import check
        except ImportError as error:
            raise MissingExtra("redis", where=f"cluster {self.name} (redis)") from error
        client = Client(self.name, self._settings)
        check(client, deadline)
        self._client = client
        _open_backends.add(self)

    def close(self, deadline: float) -> None:
        for consumer in list(self._consumers):
            consumer.close(deadline)
        if self._client is not None:
            _open_backends.discard(self)
            self._client.close()

    def producer(self, events: EventSink) -> Producer:
        from mqsdk_redis.producer import RedisProducer

        return RedisProducer(self._opened(), events)

    def consumer(self, subscription: Subscription) -> Consumer:
        from mqsdk_redis.admin import RedisAdmin
        from mqsdk_redis.consumer import RedisConsumer

        client = self._opened()
        admin = RedisAdmin(client)
        check_name("group", subscription.group)
        first = subscription.topics[0]
        if not subscription.broadcast:
            admin.ensure_group(first, subscription.group, subscription.start)
        consumer = RedisConsumer(client, subscription, admin.ends(first), self._consumers.discard)
        self._consumers.add(consumer)
        return consumer

    def admin(self) -> Admin:
        from mqsdk_redis.admin import RedisAdmin

        return RedisAdmin(self._opened())

    def health(self) -> BackendHealth:
        """Version, latency, and what the server's settings mean for acknowledged messages."""
        if self._client is None or self._client.state != "open":
            return BackendHealth(False, guarantee=UNKNOWN_GUARANTEE, findings=(Finding("warn", "closed", "the cluster is not open"),))
        from mqsdk_redis.inspection import health

        return health(self._client)

    def _opened(self) -> Client:
        if self._client is None:
            from mqsdk_redis.errors import closed

            raise closed(self.name)
        self._client.check()
        return self._client

    def vanish(self) -> None:
        """Close every socket, tell the server nothing: what a fork does to the copies in the child, and a kill to a process."""
        for consumer in list(self._consumers):
            consumer.vanish()
        if self._client is not None:
            self._client.vanish()


# Backends whose copies a fork makes stale. Module-wide because the interpreter's hook is, and cannot be taken back.
_open_backends: weakref.WeakSet[RedisBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_open_backends):
        with suppress(Exception):  # nobody would hear of it, and the others must be given up all the same
            backend.vanish()
    _open_backends.clear()


os.register_at_fork(after_in_child=_forget_all)
