"""Plain clients of Kafka on both sides: payload and key untouched, the same partitions, their progress taken over, their groups refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from kafka.structs import OffsetAndMetadata

from mqsdk.core.partitioner import partition_of
from mqsdk.spi import UnsafeBackend
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import values
from tests.kafka.stage import KafkaStage


class TestForeign(KafkaStage):
    def read_plainly(self, topic: str, count: int) -> list[Any]:
        """What a plain client reads of partition 0."""
        consumer = self.broker.consumer()
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        found: list[Any] = []
        give_up = time.monotonic() + self.timeout_s
        while len(found) < count:
            assert time.monotonic() < give_up, f"{len(found)} of {count} records"
            found += consumer.poll(200).get(place, [])
        consumer.close()
        return found

    def test_a_plain_consumer_reads_payload_and_key_untouched(self) -> None:
        topic = self.topic()
        value = bytes(range(256)) * 4
        self.store([self.record(topic, value, b"key\x00\xff", headers=(("shop", "grüße"),), timestamp_ms=1_700_000_000_123)])
        (found,) = self.read_plainly(topic, 1)
        assert (found.value, found.key, found.timestamp) == (value, b"key\x00\xff", 1_700_000_000_123)
        assert ("shop", "grüße".encode()) in found.headers
        ((name, packed),) = (pair for pair in found.headers if pair[0] != "shop")
        assert (name, packed.split()[2:]) == ("mq", [b"1700000000123", b"-", b"-1"])

    def test_messages_of_a_plain_producer_are_delivered_as_they_are(self) -> None:
        topic = self.topic()
        producer = self.broker.producer()
        sent: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
            (b"plain", None, []),
            (b"\xff\x00", b"k", [("a", b"1"), ("a", b"2"), ("binary", b"\xff")]),
            (None, b"tombstone", []),
        ]
        for value, key, headers in sent:
            producer.send(topic, value, key, headers, 0, 1_700_000_000_000).get(self.timeout_s)
        producer.close()
        records = self.join(topic).take(3)
        assert [(record.value, record.key) for record in records] == [(b"plain", None), (b"\xff\x00", b"k"), (b"", b"tombstone")]
        assert records[1].headers == (("a", "1"), ("a", "2"), ("binary", b"\xff".decode("utf-8", "surrogateescape")))
        assert {(record.id, record.timestamp_ms, record.attempt) for record in records} == {(None, 1_700_000_000_000, 1)}

    def test_a_key_belongs_to_the_partition_that_the_clients_of_kafka_choose(self) -> None:
        for number in range(2000):
            key = b"key-%d" % number * (number % 5 + 1)
            assert partition_of(key, 12) == (murmur2(key) & 0x7FFFFFFF) % 12
        topic = self.topic(5)
        producer = self.broker.producer()
        for number in range(50):
            key = b"order-%d" % number
            stored = producer.send(topic, b"v", key).get(self.timeout_s)
            assert stored.partition == partition_of(key, 5)
        producer.close()

    def test_the_progress_of_a_plain_client_is_taken_over_and_its_note_ignored(self) -> None:
        topic = self.topic(groups=())
        self.publish(topic, numbered(4))
        admin = self.broker.admin()
        admin.alter_group_offsets(f"{topic}.g", {TopicPartition(topic, 0): OffsetAndMetadata(2, "mq1: a note of somebody else", -1)})
        admin.close()
        reader = self.join(topic)
        assert next(iter(reader.owned.values())).sparse == b""
        assert values(reader.take(2)) == [b"m2", b"m3"]

    def test_a_group_of_another_client_is_continued_under_its_own_name(self) -> None:
        topic = self.topic(groups=())
        self.publish(topic, numbered(4))
        group = f"shared-{topic.rpartition('.')[2]}"
        plain = self.broker.consumer(topic, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False)
        give_up = time.monotonic() + self.timeout_s
        while not plain.poll(200):
            assert time.monotonic() < give_up
        plain.commit({TopicPartition(topic, 0): OffsetAndMetadata(3, "", -1)})
        plain.close()
        backend = self.make_backend(group_id="{group}")
        self._backends.append(backend)
        backend.open(self.deadline())
        assert [info.group for info in backend.admin().groups(topic)] == [group]
        assert [item.messages for item in backend.admin().progress(topic, group)] == [1]
        reader = self.subscribe(topic, group=group, backend=backend).joined(1)
        assert values(reader.take(1)) == [b"m3"]

    def test_a_group_with_members_of_another_client_is_refused(self) -> None:
        topic = self.topic()
        plain = self.broker.consumer(topic, group_id=f"{topic}.g", enable_auto_commit=False)
        give_up = time.monotonic() + self.timeout_s
        while not plain.assignment():
            plain.poll(100)
            assert time.monotonic() < give_up
        reader = self.subscribe(topic)
        with pytest.raises(UnsafeBackend) as refused:
            reader.joined(1)
        assert refused.value.finding == "assignor"
        assert refused.value.fix
        plain.close()

    def test_what_a_transaction_took_back_is_not_delivered_and_holds_nothing_up(self) -> None:
        topic = self.topic()
        producer = self.broker.producer(transactional_id=f"tx-{topic}")
        producer.init_transactions()
        for number, ends in enumerate((producer.commit_transaction, producer.abort_transaction, producer.commit_transaction)):
            producer.begin_transaction()
            producer.send(topic, b"%d" % number, partition=0).get(self.timeout_s)
            ends()
        producer.close()
        reader = self.join(topic)
        records = reader.take(2)
        assert values(records) == [b"0", b"2"]
        assert reader.gaps() == []
        reader.settle_all()
        assert self.committed(topic)[0] == records[1].position + 1
