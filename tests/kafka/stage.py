"""What every test of the adapter starts from: the run's one broker, and the stage of the conformance suite over it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mqsdk_kafka
import pytest
from kafka import TopicPartition
from kafka import errors as raw
from kafka.structs import OffsetAndMetadata
from mqsdk_kafka.backend import KafkaBackend

from mqsdk.testing.conformance.base import Stage
from mqsdk.testing.conformance.reader import Reader
from tests.brokers.kafka import KafkaBroker


def backend_at(servers: list[str], **options: Any) -> KafkaBackend:
    backend = mqsdk_kafka.mqsdk_backend(kind="kafka", name="shop", options={"servers": servers, **options})
    assert isinstance(backend, KafkaBackend)
    return backend


# The client does not close a socket whose connection was refused: the collector does, and says so.
LEAKS = "ignore:unclosed <(socket|ssl):ResourceWarning"


def cut_the_log(reader: Reader, place: TopicPartition, left: int) -> None:
    """Have the client report at its next look that only so many records are left, as it does after an unclean election."""
    raw_consumer = reader.consumer._raw  # type: ignore[attr-defined]
    poll = raw_consumer.poll

    def cut(**how: object) -> object:
        raw_consumer.poll = poll
        raise raw.LogTruncationError({place: OffsetAndMetadata(left, "", 1)})

    raw_consumer.poll = cut


@pytest.mark.filterwarnings(LEAKS)
class KafkaStage(Stage):
    broker: KafkaBroker
    lease_s = 4.0
    quiet_s = 0.3

    @pytest.fixture(autouse=True)
    def _stage(self, kafka_broker: KafkaBroker) -> Iterator[None]:
        self.broker = kafka_broker
        self.set_up()
        yield
        self.tear_down()
        gc.collect()  # what the client leaks is found within the test that may leak it

    def make_backend(self, **options: Any) -> KafkaBackend:
        return backend_at([self.broker.address], **options)

    @property
    def backend(self) -> KafkaBackend:
        found = super().backend
        assert isinstance(found, KafkaBackend)
        return found

    def committed(self, topic: str, group: str = "g", partition: int = 0) -> tuple[int, str]:
        """Offset and metadata as any client of the broker sees them."""
        place = TopicPartition(topic, partition)
        admin = self.broker.admin()
        found = admin.list_group_offsets({f"{topic}.{group}": [place]})[f"{topic}.{group}"][place]
        admin.close()
        return found.offset, found.metadata
