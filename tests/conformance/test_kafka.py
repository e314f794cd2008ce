"""Apache Kafka on a real broker, one for all scenarios; every topic and group of a scenario is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import mqsdk_kafka
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka import errors as raw
from kafka.future import Future
from mqsdk_kafka.backend import KafkaBackend

from mqsdk.spi import Backend
from mqsdk.testing.conformance import BackendConformance
from tests.brokers.kafka import KafkaBroker


class _Failing:
    """A producer of the client whose next record ends as asked; the broker and everything else is real."""

    def __init__(self, inner: KafkaProducer, outcome: str) -> None:
        self._inner = inner
        self._outcome = outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, *given: Any) -> Any:
        outcome, self._outcome = self._outcome, ""
        if outcome == "rejected":
            return Future().failure(raw.InvalidRecordError())
        if outcome == "unknown_lost":
            return Future().failure(raw.KafkaConnectionError())
        sent = self._inner.send(*given)
        if not outcome:
            return sent
        doubtful = Future()
        sent.add_callback(lambda _: doubtful.failure(raw.KafkaConnectionError()))
        return doubtful


# The client does not close a socket whose connection was refused: the collector does, and says so.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
class TestKafka(BackendConformance):
    lease_s = 2.0  # a crashed consumer is seen after it
    quiet_s = 0.3

    @pytest.fixture(autouse=True)
    def _broker(self, kafka_broker: KafkaBroker) -> None:
        self.broker = kafka_broker

    def make_backend(self) -> Backend:
        backend = mqsdk_kafka.mqsdk_backend(kind="kafka", name="kafka", options={"servers": [self.broker.address]})
        assert backend is not None
        return backend

    def restart_broker(self) -> None:
        self.broker.kill()
        self.broker.start()

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        producer = self.broker.producer()
        producer.send(topic, value, key, [(name, text.encode()) for name, text in headers], 0).get(self.timeout_s)
        producer.close()

    def trim(self, topic: str, partition: int, before: int) -> None:
        admin = self.broker.admin()
        admin.delete_records({TopicPartition(topic, partition): before})
        admin.close()

    def crash(self, backend: Backend) -> None:
        """What the kernel does for a killed process: close every socket. Real kills are in tests/kafka."""
        assert isinstance(backend, KafkaBackend)
        backend.vanish()

    def fail_publish(self, backend: Backend, outcome: Literal["rejected", "unknown_stored", "unknown_lost"]) -> None:
        assert isinstance(backend, KafkaBackend)
        client = backend._client
        assert client is not None
        make = client.producer
        first = [outcome]

        def failing(*given: Any, **named: Any) -> Any:
            made = make(*given, **named)
            return _Failing(made, first.pop()) if first else made

        client.producer = failing  # type: ignore[method-assign]
