"""Broadcast: each instance gets everything from its start on, whatever others do, and nothing of its progress is kept."""

from __future__ import annotations

from typing import Any

from mqsdk.spi import Gap, Lost, Partition
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values


class BroadcastScenarios(Stage):
    def instance(self, topic: str, partitions: int = 1, **how: Any) -> Reader:
        """A consumer of its own, over a connection of its own, as another process has it."""
        backend = how.pop("backend", None) or self.connect()
        return self.subscribe(topic, broadcast=True, backend=backend, **how).joined(partitions)

    def test_each_instance_gets_everything_from_its_start_on(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            self.publish(topic, [b"before"])
            first = self.instance(topic)
            self.publish(topic, numbered(3))
            second = self.instance(topic)
            self.publish(topic, [b"last"])
            assert values(first.take(4)) == [*numbered(3), b"last"]
            assert values(second.take(1)) == [b"last"]
            for instance in (first, second):
                instance.quiet()

    def test_it_begins_when_it_is_made_not_when_it_is_polled(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            reader = self.subscribe(topic, broadcast=True)
            self.publish(topic, [b"between"])
            assert values(reader.take(1)) == [b"between"]

    def test_every_instance_has_every_partition_for_good(self) -> None:
        if self.caps.broadcast:
            topic = self.topic(4)
            instances = [self.instance(topic, 4) for _ in range(3)]
            for number in range(4):
                self.publish(topic, [b"m%d" % number], partition=number)
            self.until(instances, lambda: all(len(instance.read) == 4 for instance in instances), "everything at everybody")
            assert not any(instance.seen(Lost) for instance in instances)
            instances.pop().close()
            self.publish(topic, [b"after"], partition=2)
            for instance in instances:
                assert sorted(values(instance.take(5))) == [b"after", *numbered(4)]

    def test_a_partition_is_delivered_in_publish_order(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            reader = self.instance(topic, max_records=7)
            self.publish(topic, numbered(300))
            assert values(reader.take(300)) == numbered(300)

    def test_no_group_is_made_and_no_group_is_moved(self) -> None:
        if self.caps.broadcast:
            topic = self.topic(groups=("g",))
            reader = self.instance(topic, group="all")
            self.publish(topic, numbered(3))
            reader.take(3)
            reader.settle_all()
            assert [info.group for info in self.admin.groups(topic)] == ["g"]
            assert not self.admin.progress(topic, "all")
            assert values(self.join(topic).take(3)) == numbered(3)

    def test_the_group_of_its_name_shares_beside_it(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            instance, member = self.instance(topic), self.join(topic)
            self.publish(topic, numbered(2))
            for reader in (instance, member):
                assert values(reader.take(2)) == numbered(2)

    def test_settles_are_answered_and_kept_by_nobody(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            backend = self.connect()
            reader = self.instance(topic, backend=backend)
            self.publish(topic, numbered(2))
            taken = reader.take(2)
            partition = Partition(topic, 0)
            assert reader.answer(reader.send_settle(partition, taken[0].position + 1)).outcome == "stored"
            assert reader.answer(reader.send_settle(partition, epoch=reader.owned[partition].epoch + 1)).outcome == "stale"
            assert reader.answer(reader.send_settle(partition, final=True)).outcome == "stored"
            reader.close()
            again = self.instance(topic, backend=backend)
            again.quiet()
            self.publish(topic, [b"new"])
            assert values(again.take(1)) == [b"new"]

    def test_it_goes_on_where_it_is_told_to(self) -> None:
        if self.caps.broadcast:
            topic = self.topic(2)
            backend = self.connect()
            reader = self.instance(topic, 2, backend=backend)
            self.publish(topic, numbered(4))
            self.publish(topic, [b"other"], partition=1)
            seen = reader.take(5)
            place = next(record.position for record in seen if record.value == b"m2")
            reader.close()
            # Positions without history are those of a process.
            again = self.instance(topic, 2, backend=None if self.caps.history else backend, positions=((0, place),))
            assert values(again.take(2)) == [b"m2", b"m3"]
            again.quiet()

    def test_credit_is_kept(self) -> None:
        if self.caps.broadcast:
            topic = self.topic()
            reader = self.instance(topic, credit=(2, 1 << 20))
            self.publish(topic, numbered(5))
            assert values(reader.take(2)) == numbered(2)
            reader.quiet()
            reader.consumer.credit(Partition(topic, 0), 10, 1 << 20)
            assert values(reader.take(3)) == numbered(5)[2:]

    def test_records_that_are_gone_are_a_gap(self) -> None:
        if self.caps.broadcast and self.gives("trim"):
            topic = self.topic()
            self.instance(topic).close()
            positions = [position or 0 for position in self.publish(topic, numbered(10))]
            self.trim(topic, 0, positions[6])
            reader = self.instance(topic, positions=((0, positions[0]),))
            assert values(reader.take(4)) == numbered(10)[6:]
            (gap,) = reader.seen(Gap)
            assert isinstance(gap, Gap)
            assert (gap.start, gap.stop, gap.reason) == (positions[0], positions[6], "retention")

    def test_what_goes_while_it_waits_for_credit_was_read_ahead_or_is_a_gap(self) -> None:
        if self.caps.broadcast and self.gives("trim"):
            topic = self.topic()
            reader = self.instance(topic, credit=None)
            positions = [position or 0 for position in self.publish(topic, numbered(10))]
            self.trim(topic, 0, positions[6])
            reader.consumer.credit(Partition(topic, 0), 100, 1 << 20)
            reader.until(lambda: b"m9" in [record.value for _, record in reader.read], "the newest record")
            read = [record.position for _, record in reader.read]
            gone = [position for position in positions for start, stop in reader.gaps() if start <= position < stop]
            assert gone + read == positions

    def test_it_outlives_a_restart_of_the_broker(self) -> None:
        if self.caps.broadcast and self.gives("restart_broker"):
            topic = self.topic()
            reader = self.instance(topic)
            self.publish(topic, [b"before"])
            assert values(reader.take(1)) == [b"before"]
            self.restart_broker()
            self.store([self.record(topic, b"after")], self.connect())
            assert values(reader.take(1)) == [b"after"]
            reader.quiet()

    def test_a_delayed_record_comes_to_each(self) -> None:
        if self.caps.broadcast and self.caps.delay == "native":
            topic = self.topic(groups=())
            instances = [self.instance(topic) for _ in range(2)]
            record = self.record(topic, b"later")
            self.store([record._replace(due_ms=record.timestamp_ms + 200)])
            self.until(instances, lambda: all(instance.read for instance in instances), "at both")
            for instance in instances:
                assert values(instance.take(1)) == [b"later"]
                instance.quiet()
