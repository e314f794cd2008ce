"""Gaps: unread messages that are gone are named exactly, never passed over in silence."""

from __future__ import annotations

from mqsdk.spi import Gap
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import values


class GapScenarios(Stage):
    """Each needs the hook `trim`."""

    def trimmed(self, count: int, lost: int) -> tuple[str, int]:
        """A topic of `count` records of which the first `lost` are gone; and its first position."""
        topic = self.topic()
        positions = self.publish(topic, numbered(count))
        first = positions[0] or 0
        self.trim(topic, 0, first + lost)
        return topic, first

    def test_records_that_are_gone_before_they_were_read_are_a_gap(self) -> None:
        if self.gives("trim"):
            topic, first = self.trimmed(10, 4)
            reader = self.join(topic)
            assert values(reader.take(6)) == numbered(10)[4:]
            assert reader.gaps() == [(first, first + 4)]

    def test_a_gap_has_a_reason_and_the_epoch_of_its_owner(self) -> None:
        if self.gives("trim"):
            topic, _ = self.trimmed(3, 1)
            reader = self.join(topic)
            reader.take(2)
            (gap,) = [event for event in reader.events if isinstance(event, Gap)]
            assert gap.reason in ("retention", "corrupt", "truncated")
            assert gap.epoch == reader.owned[gap.partition].epoch

    def test_a_gap_comes_before_the_records_behind_it(self) -> None:
        if self.gives("trim"):
            topic, _ = self.trimmed(3, 1)
            reader = self.join(topic)
            reader.take(2)
            kinds = [type(event).__name__ for event in reader.events if type(event).__name__ in ("Gap", "Batch")]
            assert kinds[0] == "Gap"

    def test_a_running_consumer_is_told_too(self) -> None:
        if self.gives("trim"):
            topic = self.topic()
            first = self.publish(topic, numbered(10))[0] or 0
            reader = self.join(topic, credit=(2, 1 << 20))
            reader.take(2)
            self.trim(topic, 0, first + 7)
            (partition,) = reader.owned
            reader.consumer.credit(partition, 100, 1 << 20)
            # One that reads ahead has some of it still: delivered or told, nothing is passed over.
            reader.until(lambda: reader.read[-1:] != [] and reader.read[-1][1].position == first + 9, "the last record")
            got = [record.position for _, record in reader.read]
            lost = [position for start, stop in reader.gaps() for position in range(start, stop)]
            assert sorted(got + lost) == list(range(first + 2, first + 10))
            assert got[-3:] == [first + 7, first + 8, first + 9]

    def test_everything_gone_is_a_gap_as_well(self) -> None:
        if self.gives("trim"):
            topic, first = self.trimmed(5, 5)
            reader = self.join(topic)
            self.publish(topic, [b"after"])
            assert values(reader.take(1)) == [b"after"]
            assert reader.gaps() == [(first, first + 5)]

    def test_settled_records_that_are_gone_are_no_gap(self) -> None:
        if self.gives("trim"):
            topic = self.topic()
            first = self.publish(topic, numbered(4))[0] or 0
            reader = self.join(topic)
            reader.take(4)
            reader.settle_all()
            self.trim(topic, 0, first + 4)
            self.publish(topic, [b"next"])
            assert values(reader.take(1)) == [b"next"]
            assert reader.gaps() == []

    def test_a_gap_is_told_once_per_ownership(self) -> None:
        if self.gives("trim"):
            topic, _ = self.trimmed(4, 2)
            reader = self.join(topic)
            reader.take(2)
            reader.quiet()
            assert len(reader.gaps()) == 1

    def test_lag_does_not_count_what_is_gone(self) -> None:
        if self.gives("trim"):
            topic, _ = self.trimmed(10, 4)
            assert [item.messages for item in self.admin.progress(topic, "g")] == [6]

    def test_bounds_begin_behind_what_is_gone(self) -> None:
        if self.gives("trim") and self.caps.read_by_position:
            topic, first = self.trimmed(10, 4)
            assert self.admin.bounds(topic, 0) == (first + 4, first + 10)
            assert values(self.admin.read(topic, 0, first, 2)) == numbered(10)[4:6]
