"""Order: a partition is delivered as it was published, also when it is delivered again or by somebody else."""

from __future__ import annotations

from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import values


class OrderScenarios(Stage):
    def test_a_partition_is_delivered_in_publish_order(self) -> None:
        topic = self.topic()
        sent = numbered(300)
        for start, stop in ((0, 1), (1, 4), (4, 100), (100, 101), (101, 300)):
            self.publish(topic, sent[start:stop])
        assert values(self.join(topic).take(300)) == sent

    def test_order_holds_while_publishing_and_reading_alternate(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        sent = numbered(60)
        got: list[bytes] = []
        for start in range(0, 60, 3):
            self.publish(topic, sent[start : start + 3])
            got += values(reader.take(2))
        got += values(reader.take(20))
        assert got == sent

    def test_each_producer_keeps_its_order_beside_another(self) -> None:
        topic = self.topic()
        other = self.connect()
        for number in range(20):
            self.store([self.record(topic, b"a%d" % number)])
            self.store([self.record(topic, b"b%d" % number)], other)
        got = values(self.join(topic).take(40))
        assert [value for value in got if value.startswith(b"a")] == numbered(20, "a")
        assert [value for value in got if value.startswith(b"b")] == numbered(20, "b")

    def test_a_record_comes_from_the_partition_it_was_published_to(self) -> None:
        topic = self.topic(4)
        self.store([self.record(topic, b"%d" % (number % 4), partition=number % 4) for number in range(40)])
        reader = self.join(topic, 4)
        reader.until(lambda: len(reader.read) == 40, "40 records")
        assert {(partition.number, record.value) for partition, record in reader.read} == {(n, b"%d" % n) for n in range(4)}
        assert {partition.topic for partition, _ in reader.read} == {topic}

    def test_positions_rise_within_an_ownership(self) -> None:
        topic = self.topic(2)
        self.store([self.record(topic, partition=number % 2) for number in range(100)])
        reader = self.join(topic, 2)
        reader.until(lambda: len(reader.read) == 100, "100 records")
        for number in range(2):
            positions = [record.position for partition, record in reader.read if partition.number == number]
            assert positions == sorted(set(positions))

    def test_what_comes_again_comes_in_the_same_order(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(50))
        reader = self.join(topic)
        reader.take(50)
        reader.close()
        assert values(self.redelivered(topic, 50)) == numbered(50)

    def test_order_holds_across_a_change_of_the_owner(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(30))
        first = self.join(topic, credit=(10, 1 << 20))
        head = values(first.take(10))
        first.settle_all(final=True)
        first.close()
        self.publish(topic, [b"last"])
        assert head + values(self.join(topic).take(21)) == [*numbered(30), b"last"]

    def test_order_within_a_batch_of_mixed_partitions_holds_per_partition(self) -> None:
        topic = self.topic(2)
        self.store([self.record(topic, b"m%d" % number, partition=number % 2) for number in range(20)])
        reader = self.join(topic, 2)
        reader.until(lambda: len(reader.read) == 20, "20 records")
        for number in range(2):
            got = [record.value for partition, record in reader.read if partition.number == number]
            assert got == [b"m%d" % index for index in range(number, 20, 2)]
