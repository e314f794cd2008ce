"""One cluster of kind `kafka`: its brokers, its clients, and everything handed out over them."""

from __future__ import annotations

import dataclasses
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
    StateError,
    Subscription,
)
from mqsdk_kafka import marks
from mqsdk_kafka.options import Settings

if TYPE_CHECKING:
    from mqsdk_kafka.client import Client
    from mqsdk_kafka.consumer import KafkaConsumer
    from mqsdk_kafka.producer import KafkaProducer

MAX_PAYLOAD = (2 << 20) - (64 << 10)  # the message size of the topics that are made here, less room for key and headers
CAPABILITIES = Capabilities(
    settle="cursor",
    publish="async",
    companions=True,
    broadcast=True,
    delay="ladder",
    amend=True,
    sparse_bytes=marks.room(marks.BROKER_LIMIT),
    max_payload=MAX_PAYLOAD,
)
CLOSED = "kafka: what is acknowledged is held by the replicas that were in sync"


class KafkaBackend(Backend):
    """Constructing touches nothing."""

    kind: ClassVar[str] = "kafka"

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._client: Client | None = None
        self._consumers: set[KafkaConsumer] = set()  # strong: one that nobody holds any more is still a member of its group
        self._producers: set[KafkaProducer] = set()

    @property
    def capabilities(self) -> Capabilities:
        """Once open, a broker that keeps less beside an offset than usual is taken at its word."""
        limit = self._client.mark_limit if self._client is not None else marks.BROKER_LIMIT
        return dataclasses.replace(CAPABILITIES, sparse_bytes=min(CAPABILITIES.sparse_bytes, marks.room(limit)))

    def open(self, deadline: float) -> None:
        """Connect and learn the broker's limits. Raises also ConfigError for files of `tls`."""
        if self._client is not None:
            return
        try:
            from mqsdk_kafka.client import Client
            from mqsdk_kafka.inspection import check
        except ImportError as error:
            raise MissingExtra("kafka", where=f"cluster {self.name} (kafka)") from error
        client = Client(self.name, self._settings)
        try:
            check(client, deadline)
        except BaseException:
            client.close()
            raise
        self._client = client

    def close(self, deadline: float) -> None:
        for producer in list(self._producers):
            producer.close(deadline)
        for consumer in list(self._consumers):
            consumer.close(deadline)
        if self._client is not None:
            self._client.close()

    def producer(self, events: EventSink) -> Producer:
        from mqsdk_kafka.producer import KafkaProducer

        producer = KafkaProducer(self._opened(), events)
        self._producers.add(producer)
        return producer

    def consumer(self, subscription: Subscription) -> Consumer:
        """Raises BackendError for a topic that does not exist, AccessDenied for one that the user may not read."""
        from mqsdk_kafka.admin import KafkaAdmin
        from mqsdk_kafka.consumer import KafkaConsumer

        client = self._opened()
        consumer = KafkaConsumer(client, subscription, KafkaAdmin(client), self._consumers.discard)
        self._consumers.add(consumer)
        return consumer

    def admin(self) -> Admin:
        from mqsdk_kafka.admin import KafkaAdmin

        return KafkaAdmin(self._opened())

    def health(self) -> BackendHealth:
        """Version, latency, and what the brokers' settings mean for acknowledged messages."""
        if self._client is None or self._client.state != "open":
            return BackendHealth(False, guarantee=CLOSED, findings=(Finding("warn", "closed", "the cluster is not open"),))
        from mqsdk_kafka.inspection import health

        return health(self._client)

    def _opened(self) -> Client:
        if self._client is None:
            raise StateError("it is closed", where=f"cluster {self.name} (kafka)", state="closed")
        self._client.check()
        return self._client

    def vanish(self) -> None:
        """Close every socket, tell the brokers nothing: what the kernel does for a process that is killed."""
        for producer in list(self._producers):
            producer.vanish()
        for consumer in list(self._consumers):
            consumer.vanish()
        if self._client is not None:
            self._client.close()
