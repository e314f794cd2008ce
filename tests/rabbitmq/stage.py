"""What every test of the adapter starts from: the session's real server, and the stage of the conformance suite over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mqsdk_rabbitmq
import pytest
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.backend import RabbitBackend
from mqsdk_rabbitmq.consumer import RabbitConsumer
from mqsdk_rabbitmq.member import Hub

from mqsdk.spi import Partition
from mqsdk.testing.conformance.base import Stage
from mqsdk.testing.conformance.reader import Reader
from tests.brokers.rabbitmq import RabbitServer


def backend_at(servers: list[str], **options: Any) -> RabbitBackend:
    backend = mqsdk_rabbitmq.mqsdk_backend(kind="rabbitmq", name="shop", options={"servers": servers, **options})
    assert isinstance(backend, RabbitBackend)
    return backend


def backend_over(server: RabbitServer, **options: Any) -> RabbitBackend:
    return backend_at([server.address], **options)


def hub_of(reader: Reader) -> Hub:
    assert isinstance(reader.consumer, RabbitConsumer)
    assert isinstance(reader.consumer._hub, Hub)
    return reader.consumer._hub


def cut(reader: Reader) -> None:
    """Cut the socket under a consumer, as a network does."""
    assert isinstance(reader.consumer, RabbitConsumer)
    hub = reader.consumer._hub
    hub.loop.call(lambda: hub._wire.cut(ConnectionError("cut by the test")))


class RabbitStage(Stage):
    server: RabbitServer
    lease_s = 3.0

    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: RabbitServer) -> None:
        self.server = rabbitmq

    @pytest.fixture(autouse=True)
    def _stage(self, _server: None) -> Iterator[None]:
        self.set_up()
        yield
        self.tear_down()

    def make_backend(self, **options: Any) -> RabbitBackend:
        return backend_over(self.server, **options)

    @property
    def backend(self) -> RabbitBackend:
        found = super().backend
        assert isinstance(found, RabbitBackend)
        return found

    def ready(self, topic: str, partition: int = 0, group: str = "g") -> int:
        """Messages that wait in the queue of a partition, as the server counts them."""
        with self.server.channel() as channel:
            found: int = channel.queue_declare(names.queue(Partition(topic, partition), group), passive=True).method.message_count
        return found
