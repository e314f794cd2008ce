"""RabbitMQ on a real server, one for all scenarios; connections are what processes would be."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import mqsdk_rabbitmq
import pika
import pytest
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.backend import RabbitBackend
from mqsdk_rabbitmq.producer import Publisher

from mqsdk.spi import Backend, EventSink, NewRecord
from mqsdk.testing.conformance import BackendConformance
from mqsdk.testing.conformance.base import Stage
from mqsdk.testing.conformance.groups import GroupScenarios
from mqsdk.testing.conformance.order import OrderScenarios
from mqsdk.testing.conformance.reader import Answers
from mqsdk.testing.conformance.settle import SettleScenarios
from tests.brokers.rabbitmq import RabbitServer


class OnRabbitMQ(Stage):
    """The hooks."""

    queues = "quorum"

    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: RabbitServer) -> None:
        self.server = rabbitmq

    @pytest.fixture(autouse=True)
    def _stage(self, _server: None) -> Iterator[None]:
        self.set_up()
        yield
        self.tear_down()

    def make_backend(self) -> Backend:
        options = {"servers": [self.server.address], "queues": self.queues}
        backend = mqsdk_rabbitmq.mqsdk_backend(kind="rabbitmq", name="rabbitmq", options=options)
        assert backend is not None
        return backend

    def restart_broker(self) -> None:
        self.server.kill()
        self.server.start()

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        table = {**dict(headers), **({} if key is None else {"key": key})}
        with self.server.channel() as channel:
            channel.basic_publish(names.exchange(topic), "0", value, pika.BasicProperties(headers=table))

    def crash(self, backend: Backend) -> None:
        """What the kernel does for a killed process: close every socket. Real kills are in tests/rabbitmq."""
        assert isinstance(backend, RabbitBackend)
        backend.crash()

    def fail_publish(self, backend: Backend, outcome: Literal["rejected", "unknown_stored", "unknown_lost"]) -> None:
        assert isinstance(backend, RabbitBackend)
        backend.producer(Answers(self.timeout_s))
        publisher = backend._publisher
        assert publisher is not None
        if outcome == "rejected":
            self._refuse_next(publisher)
            return
        ready = threading.Event()

        def arm() -> None:
            connection = publisher._wire.connection
            if connection is None or publisher._channel is None:
                publisher._loop.later(0.01, arm)
                return
            send = connection.send_frames

            def unheard(data_in: bytes) -> None:
                connection.cut(ConnectionError("cut before the answer is read"))

            def failing(frames: bytes) -> None:
                if outcome == "unknown_stored":
                    send(frames)
                    connection._on_data_available = unheard  # type: ignore[method-assign]  # as below
                else:
                    connection.cut(ConnectionError("cut before anything is sent"))

            connection.send_frames = failing  # type: ignore[method-assign]  # of this connection alone, which it ends
            ready.set()

        publisher._loop.call(arm)
        assert ready.wait(self.timeout_s)

    def _refuse_next(self, publisher: Publisher) -> None:
        """The queue is not bound while the next message is published."""
        publish = publisher.publish

        def unbound(sink: EventSink, batch: Sequence[NewRecord], deadline: float) -> None:
            where = batch[0].partition
            bound = (names.queue(where, "g"), names.exchange(where.topic), str(where.number))
            with self.server.channel() as channel:
                channel.queue_unbind(*bound)
            publish(sink, batch, deadline)
            publisher.publish = partial(rebound, bound)  # type: ignore[method-assign]  # one call further

        def rebound(bound: tuple[str, str, str], sink: EventSink, batch: Sequence[NewRecord], deadline: float) -> None:
            with self.server.channel() as channel:
                channel.queue_bind(*bound)
            publisher.publish = publish  # type: ignore[method-assign]
            publish(sink, batch, deadline)

        publisher.publish = unbound  # type: ignore[method-assign]


class TestRabbitMQ(OnRabbitMQ, BackendConformance):
    """Quorum queues: everything."""


class TestRabbitMQClassic(OnRabbitMQ, OrderScenarios, SettleScenarios, GroupScenarios):
    """Classic queues: what the type of the queue has a part in."""

    queues = "classic"

    def restart_broker(self) -> None:
        """In order: a classic queue writes acknowledgements down later, so after a kill the youngest come again."""
        self.server.shut_down()
        self.server.start()
