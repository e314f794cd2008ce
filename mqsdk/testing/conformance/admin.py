"""Looking and arranging: what an operator reads is exact, what would lose messages by accident is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mqsdk.spi import BackendError, CapabilityError, StateError, UnsafeBackend
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import values

HOUR_MS = 3_600_000
NOON_MS = 1_700_000_000_000


class AdminScenarios(Stage):
    def refused(self, call: Callable[[], object]) -> None:
        with pytest.raises(CapabilityError):
            call()

    # --- topics and groups ----------------------------------------------------------------------------------------------------------

    def test_ensuring_a_topic_twice_changes_nothing(self) -> None:
        topic = self.topic(3)
        self.publish(topic, [b"kept"], partition=2)
        assert self.admin.ensure_topic(topic, 3) == 3
        assert self.admin.ensure_topic(topic, None) == 3
        assert values(self.join(topic, 3).take(1)) == [b"kept"]

    def test_a_topic_has_eight_partitions_unless_told_otherwise(self) -> None:
        name = self.topic() + "-default"
        assert self.admin.ensure_topic(name, None) == 8
        assert self.admin.partitions(name) == 8

    def test_a_topic_is_told_how_long_it_keeps_or_the_backend_refuses(self) -> None:
        topic = self.topic()
        if not self.caps.retention:
            self.refused(lambda: self.admin.keep(topic, 3600.0))
            return
        self.publish(topic, [b"young"])
        for seconds in (3600.0, math.inf, 60.0):
            self.admin.keep(topic, seconds)
        with pytest.raises(BackendError):
            self.admin.keep(topic + "-missing", 60.0)
        assert values(self.join(topic).take(1)) == [b"young"]

    def test_another_number_of_partitions_is_refused(self) -> None:
        topic = self.topic(3)
        with pytest.raises(UnsafeBackend) as refused:
            self.admin.ensure_topic(topic, 4)
        assert refused.value.finding == "partitions"
        assert self.admin.partitions(topic) == 3

    def test_a_topic_that_does_not_exist_has_no_partitions(self) -> None:
        assert self.admin.partitions("conf.never-made") is None

    def test_topics_are_listed_by_name(self) -> None:
        made = sorted([self.topic(2, groups=("b", "a")), self.topic(1)])
        infos = {info.name: info for info in self.admin.topics()}
        assert list(infos) == sorted(infos)
        assert set(made) <= set(infos)
        assert {name: infos[name].partitions for name in made} == {name: self.admin.partitions(name) for name in made}
        assert ("a", "b") in [infos[name].groups for name in made]

    def test_a_listed_topic_counts_its_messages_where_it_can(self) -> None:
        topic = self.topic(2)
        self.publish(topic, [b"12345"] * 4, partition=1)
        (info,) = [info for info in self.admin.topics() if info.name == topic]
        assert info.messages in (None, 4)
        assert info.bytes is None or info.bytes >= 20

    def test_ensuring_a_group_twice_changes_nothing(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic)
        reader.take(3)
        reader.settle_all(final=True)
        reader.close()
        self.admin.ensure_group(topic, "g")
        self.admin.ensure_group(topic, "g", "latest")
        assert self.redelivered(topic, 0) == []

    def test_groups_and_their_members_are_listed(self) -> None:
        topic = self.topic(2, groups=("idle", "busy"))
        self.join(topic, 2, group="busy")
        infos = {info.group: info for info in self.admin.groups(topic)}
        assert set(infos) == {"idle", "busy"}
        assert infos["idle"].members == ()
        (member,) = infos["busy"].members
        assert set(member.partitions) in ({0, 1}, set())

    def test_a_group_has_no_members_after_its_consumers_closed(self) -> None:
        topic = self.topic()
        self.join(topic).close()
        (info,) = self.admin.groups(topic)
        assert info.members == ()

    # --- progress -------------------------------------------------------------------------------------------------------------------

    def test_progress_is_exact_per_partition(self) -> None:
        topic = self.topic(2)
        self.publish(topic, numbered(5), partition=0)
        self.publish(topic, numbered(3), partition=1)
        reader = self.join(topic, 2)
        reader.until(lambda: len(reader.read) == 8, "8 records")
        zero = next(partition for partition in reader.owned if partition.number == 0)
        third = [record.position for partition, record in reader.read if partition == zero][2]
        reader.answer(reader.send_settle(zero, third))
        if self.caps.exact_lag:
            assert [(item.partition, item.messages) for item in self.admin.progress(topic, "g")] == [(0, 3), (1, 3)]

    def test_progress_of_a_fresh_group_counts_everything(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(7))
        (item,) = self.admin.progress(topic, "g")
        assert item.messages == 7
        assert item.end - item.watermark in (7, item.end)

    def test_progress_is_zero_when_everything_is_settled(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(7))
        reader = self.join(topic)
        reader.take(7)
        reader.settle_all()
        (item,) = self.admin.progress(topic, "g")
        assert (item.messages, item.oldest_ms) == (0, None)

    def test_a_group_that_does_not_exist_has_no_progress(self) -> None:
        assert self.admin.progress(self.topic(), "nobody") == []

    def test_the_oldest_unsettled_message_is_dated_where_the_backend_can(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, timestamp_ms=NOON_MS + number * HOUR_MS) for number in range(3)])
        reader = self.join(topic)
        second = reader.take(3)[1]
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, second.position))
        (item,) = self.admin.progress(topic, "g")
        assert item.oldest_ms in (None, NOON_MS + HOUR_MS)

    # --- replay ---------------------------------------------------------------------------------------------------------------------

    def consumed(self, count: int) -> str:
        """A topic of which the group has settled everything."""
        topic = self.topic()
        self.store([self.record(topic, b"m%d" % number, timestamp_ms=NOON_MS + number * HOUR_MS) for number in range(count)])
        reader = self.join(topic)
        reader.take(count)
        reader.settle_all(final=True)
        reader.close()
        return topic

    def test_progress_is_moved_back_to_a_position_or_refused(self) -> None:
        topic = self.consumed(5)
        if not self.caps.replay:
            return self.refused(lambda: self.admin.reset(topic, "g", {0: 0}))
        start = self.admin.bounds(topic, 0)[0] if self.caps.read_by_position else 0
        self.admin.reset(topic, "g", {0: start + 2})
        assert values(self.redelivered(topic, 3)) == [b"m2", b"m3", b"m4"]
        return None

    def test_progress_is_moved_forward_too(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(5))
        if self.caps.replay and self.caps.read_by_position:
            self.admin.reset(topic, "g", {0: self.admin.bounds(topic, 0)[1] - 1})
            assert values(self.redelivered(topic, 1)) == [b"m4"]

    def test_a_reset_moves_the_named_partitions_only(self) -> None:
        topic = self.topic(2)
        for partition in range(2):
            self.publish(topic, [b"p%d" % partition], partition=partition)
        if self.caps.replay and self.caps.read_by_position:
            self.admin.reset(topic, "g", {0: self.admin.bounds(topic, 0)[1]})
            assert values(self.join(topic, 2).take(1)) == [b"p1"]

    def test_a_reset_forgets_the_sparse_blob_and_raises_the_epoch(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic)
        reader.take(3)
        ((partition, before),) = reader.owned.items()
        reader.answer(reader.send_settle(partition, sparse=b"old" if self.caps.sparse_bytes else b"", final=True))
        reader.close()
        if self.caps.replay and self.caps.read_by_position:
            self.admin.reset(topic, "g", {0: self.admin.bounds(topic, 0)[0]})
            (after,) = self.join(topic).owned.values()
            assert after.sparse == b""
            assert after.epoch > before.epoch

    def saved_blob(self) -> str:
        """A topic whose partition 0 was handed back with a blob above an unsettled record."""
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic)
        reader.take(3)
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, sparse=b"left" if self.caps.sparse_bytes else b"", final=True))
        reader.close()
        return topic

    def test_what_is_saved_is_seen_and_replaced_or_this_is_refused(self) -> None:
        topic = self.saved_blob()
        if not self.caps.amend:
            return self.refused(lambda: self.admin.saved(topic, "g"))
        (saved,) = self.admin.saved(topic, "g")
        before = self.admin.progress(topic, "g")
        assert (saved.partition, saved.sparse) == (0, b"left")
        assert not self.admin.amend(topic, "g", saved._replace(sparse=b"other"), b"new")
        assert not self.admin.amend(topic, "g", saved._replace(epoch=saved.epoch + 1), b"new")
        assert self.admin.amend(topic, "g", saved, b"new")
        assert self.admin.saved(topic, "g") == [saved._replace(sparse=b"new")]
        assert self.admin.progress(topic, "g") == before
        (assigned,) = self.join(topic).owned.values()
        assert assigned.sparse == b"new"
        return None

    def test_what_is_saved_stays_while_the_group_has_members(self) -> None:
        topic = self.saved_blob()
        self.join(topic)
        if self.caps.amend:
            (saved,) = self.admin.saved(topic, "g")
            with pytest.raises(StateError):
                self.admin.amend(topic, "g", saved, b"new")

    def test_a_reset_is_refused_while_the_group_has_members(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        self.join(topic)
        if self.caps.replay:
            with pytest.raises(StateError):
                self.admin.reset(topic, "g", {0: 0})

    def test_progress_is_moved_to_a_time_or_refused(self) -> None:
        topic = self.consumed(5)
        if not self.caps.by_time:
            return self.refused(lambda: self.admin.locate(topic, 0, NOON_MS))
        if self.caps.replay:
            self.admin.reset(topic, "g", {0: self.admin.locate(topic, 0, NOON_MS + 3 * HOUR_MS)})
            assert values(self.redelivered(topic, 2)) == [b"m3", b"m4"]
        return None

    # --- reading --------------------------------------------------------------------------------------------------------------------

    def test_a_topic_is_read_without_touching_a_group_or_this_is_refused(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(5), key=b"k")
        if not self.caps.read_by_position:
            return self.refused(lambda: self.admin.read(topic, 0, 0, 10))
        start, end = self.admin.bounds(topic, 0)
        assert values(self.admin.read(topic, 0, start, 100)) == numbered(5)
        assert values(self.admin.read(topic, 0, start + 1, 2)) == [b"m1", b"m2"]
        assert self.admin.read(topic, 0, end, 10) == []
        assert [record.key for record in self.admin.read(topic, 0, start, 1)] == [b"k"]
        assert values(self.redelivered(topic, 5)) == numbered(5)
        return None

    def test_reading_before_the_first_record_begins_there(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        if self.caps.read_by_position:
            assert values(self.admin.read(topic, 0, 0, 10)) == numbered(2)

    def test_a_long_read_is_cut_at_its_limit(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(500))
        if self.caps.read_by_position:
            start, _ = self.admin.bounds(topic, 0)
            assert values(self.admin.read(topic, 0, start, 123)) == numbered(123)

    def test_bounds_name_the_first_and_the_next_position(self) -> None:
        topic = self.topic()
        if self.caps.read_by_position:
            empty = self.admin.bounds(topic, 0)
            assert empty[0] == empty[1]
            positions = self.publish(topic, numbered(4))
            start, end = self.admin.bounds(topic, 0)
            assert end - start == 4
            assert positions[0] in (None, start)

    def test_a_time_is_located_where_by_time_is_claimed(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, timestamp_ms=NOON_MS + number * HOUR_MS) for number in range(5)])
        if self.caps.by_time and self.caps.read_by_position:
            start, end = self.admin.bounds(topic, 0)
            found = [self.admin.locate(topic, 0, NOON_MS + offset) for offset in (-1, 0, 1, HOUR_MS, 4 * HOUR_MS, 9 * HOUR_MS)]
            assert found == [start, start, start + 1, start + 1, start + 4, end]

    def test_a_time_is_located_between_lone_publishes(self) -> None:
        topic = self.topic()
        for number in range(5):
            self.store([self.record(topic, timestamp_ms=NOON_MS + number * HOUR_MS)])
        if self.caps.by_time and self.caps.read_by_position:
            start, _ = self.admin.bounds(topic, 0)
            assert self.admin.locate(topic, 0, NOON_MS + 2 * HOUR_MS) == start + 2

    # --- deleting -------------------------------------------------------------------------------------------------------------------

    def test_a_deleted_group_is_gone_and_its_topic_stays(self) -> None:
        topic = self.topic(groups=("a", "b"))
        self.publish(topic, numbered(2))
        self.admin.delete_group(topic, "a")
        assert [info.group for info in self.admin.groups(topic)] == ["b"]
        assert self.admin.progress(topic, "a") == []
        assert values(self.redelivered(topic, 2, group="b")) == numbered(2)

    def test_a_group_with_members_is_not_deleted(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        with pytest.raises(StateError):
            self.admin.delete_group(topic, "g")
        self.publish(topic, [b"still here"])
        assert values(reader.take(1)) == [b"still here"]

    def test_a_deleted_topic_is_gone_with_its_groups(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        self.admin.delete_topic(topic)
        assert self.admin.partitions(topic) is None
        assert topic not in [info.name for info in self.admin.topics()]
        assert self.admin.progress(topic, "g") == []

    def test_a_topic_with_members_is_not_deleted(self) -> None:
        topic = self.topic(groups=("a", "b"))
        reader = self.join(topic, group="b")
        with pytest.raises(StateError):
            self.admin.delete_topic(topic)
        self.publish(topic, [b"still here"])
        assert values(reader.take(1)) == [b"still here"]

    def test_a_topic_may_be_made_again_and_is_empty(self) -> None:
        topic = self.topic(2)
        self.publish(topic, numbered(3))
        self.admin.delete_topic(topic)
        assert self.admin.ensure_topic(topic, 1) == 1
        self.admin.ensure_group(topic, "g")
        self.publish(topic, [b"new"])
        assert values(self.redelivered(topic, 1)) == [b"new"]
