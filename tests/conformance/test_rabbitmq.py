"""RabbitMQ on a real server, one for all scenarios; connections are what processes would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mqsdk_rabbitmq
import pika
import pytest
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.backend import RabbitBackend

from mqsdk.spi import Backend
from mqsdk.testing.conformance import BackendConformance
from tests.brokers.rabbitmq import RabbitServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    started = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    yield started
    started.stop()


class TestRabbitMQ(BackendConformance):
    queues = "quorum"

    @pytest.fixture(autouse=True)
    def _server(self, server: RabbitServer) -> None:
        self.server = server

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


class TestRabbitMQClassic(TestRabbitMQ):
    """The same on classic queues."""

    queues = "classic"

    def restart_broker(self) -> None:
        """In order: a classic queue writes acknowledgements down later, so after a kill the youngest come again."""
        self.server.shut_down()
        self.server.start()
