"""Instances of a broadcast on topics that grow and are cut."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import TopicPartition

from mqsdk.spi import Assigned, BackendError, Gap, Lost, Partition
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Reader, values
from tests.kafka.stage import KafkaStage, cut_the_log


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that these tests can wait for."""
    monkeypatch.setattr("mqsdk_kafka.instance.GROWTH_S", 0.2)


class TestBroadcast(KafkaStage):
    def instance(self, topic: str, partitions: int = 1, **how: Any) -> Reader:
        return self.subscribe(topic, broadcast=True, backend=self.connect(), **how).joined(partitions)

    def grow(self, topic: str, partitions: int) -> None:
        admin = self.broker.admin()
        admin.create_partitions({topic: partitions})
        admin.close()
        self.until([], lambda: self.admin.partitions(topic) == partitions, "the new partitions")

    def test_partitions_that_are_added_are_read_from_their_beginning(self) -> None:
        topic = self.topic(groups=())
        self.publish(topic, [b"before"])
        instances = [self.instance(topic) for _ in range(2)]
        self.grow(topic, 3)
        self.publish(topic, [b"added"], partition=2)
        for instance in instances:
            assert values(instance.take(1)) == [b"added"]
            instance.joined(3)
            assert not instance.seen(Lost)
        self.publish(topic, [b"as before"])
        for instance in instances:
            assert values(instance.take(1)) == [b"as before"]

    def test_a_partition_that_was_handed_back_is_not_taken_again(self) -> None:
        topic = self.topic(groups=())
        instance = self.instance(topic)
        instance.settle(Partition(topic, 0), final=True)
        self.grow(topic, 2)
        instance.joined(1)
        self.publish(topic, [b"nobody's"])
        self.publish(topic, [b"ours"], partition=1)
        assert values(instance.take(1)) == [b"ours"]
        instance.quiet()

    def test_a_log_that_was_cut_is_a_gap_and_goes_on_from_there(self) -> None:
        """Injected: the client reports it after an unclean election, when other records stand at positions that were read already."""
        topic = self.topic(groups=())
        reader = self.instance(topic)
        self.publish(topic, numbered(10))
        reader.take(10)
        cut_the_log(reader, TopicPartition(topic, 0), 3)
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        assert [(event.start, event.stop, event.reason) for event in reader.seen(Gap) if isinstance(event, Gap)] == [(3, 10, "truncated")]
        first, second = (event.epoch for event in reader.events if isinstance(event, Assigned))
        assert second > first
        # Nothing was settled, so that what is still there comes again, from the first on.
        assert values(reader.take(10)) == numbered(10)

    def test_a_position_behind_the_end_is_a_gap_and_not_silence(self) -> None:
        topic = self.topic(groups=())
        self.publish(topic, numbered(3))
        reader = self.instance(topic, positions=((0, 10),))
        reader.until(lambda: bool(reader.gaps()), "the gap")
        assert reader.gaps() == [(3, 10)]
        self.publish(topic, [b"new"])
        assert values(reader.take(1)) == [b"new"]

    def test_a_topic_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(BackendError, match="there is no topic `nowhere`"):
            self.subscribe("nowhere", broadcast=True)
