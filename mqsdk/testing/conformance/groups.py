"""Groups: independent of each other, where they begin, how members share partitions and take over."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from mqsdk.spi import Assigned, CapabilityError, Lost, Partition, Renewed, Revoking, Subscription
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values


class GroupScenarios(Stage):
    # --- independence and beginnings ------------------------------------------------------------------------------------------------

    def test_two_groups_each_get_everything(self) -> None:
        topic = self.topic(groups=("a", "b"))
        self.publish(topic, numbered(20))
        first, second = self.join(topic, group="a"), self.join(topic, group="b")
        assert values(first.take(20)) == values(second.take(20)) == numbered(20)

    def test_settling_in_one_group_does_not_move_another(self) -> None:
        topic = self.topic(groups=("a", "b"))
        self.publish(topic, numbered(5))
        first = self.join(topic, group="a")
        first.take(5)
        first.settle_all()
        first.close()
        assert values(self.redelivered(topic, 5, group="b")) == numbered(5)

    def test_one_name_of_a_group_in_two_topics_is_two_groups(self) -> None:
        topics = [self.topic(), self.topic()]
        for topic in topics:
            self.publish(topic, [topic.encode()])
        first = self.join(topics[0])
        first.take(1)
        first.settle_all()
        assert values(self.join(topics[1]).take(1)) == [topics[1].encode()]

    def test_a_late_group_sees_the_past_where_history_is_claimed(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"past"])
        reader = self.join(topic, group="late")
        if self.caps.history:
            assert values(reader.take(1)) == [b"past"]
        else:
            reader.quiet()

    def test_earliest_begins_with_the_past_or_is_refused(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"past"])
        if self.caps.history:
            assert values(self.join(topic, group="late", start="earliest").take(1)) == [b"past"]
        else:
            with pytest.raises(CapabilityError):
                self.subscribe(topic, group="late", start="earliest")

    def test_latest_begins_with_what_follows(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"past"])
        reader = self.join(topic, group="late", start="latest")
        self.publish(topic, [b"next"])
        assert values(reader.take(1)) == [b"next"]

    def test_a_time_begins_there_or_is_refused(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, b"%d" % hour, timestamp_ms=1_700_000_000_000 + hour * 3_600_000) for hour in range(4)])
        start = datetime.fromtimestamp(1_700_000_000 + 2 * 3600, UTC)
        if self.caps.history and self.caps.by_time:
            assert values(self.join(topic, group="late", start=start).take(2)) == [b"2", b"3"]
        else:
            with pytest.raises(CapabilityError):
                self.subscribe(topic, group="late", start=start)

    def test_where_to_begin_counts_for_a_new_group_only(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        reader = self.join(topic)
        first = reader.take(2)[0]
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, first.position + 1))
        reader.close()
        assert values(self.redelivered(topic, 1, start="latest")) == [b"m1"]

    def test_a_group_ensured_ahead_sees_what_is_published_before_its_first_consumer(self) -> None:
        topic = self.topic(groups=())
        self.admin.ensure_group(topic, "ahead", "latest")
        self.publish(topic, [b"waiting"])
        assert values(self.join(topic, group="ahead", start="latest").take(1)) == [b"waiting"]

    def test_one_consumer_reads_two_topics(self) -> None:
        topics = [self.topic(2), self.topic(2)]
        for topic in topics:
            self.publish(topic, [topic.encode()], partition=1)
        reader = self.subscribe(*topics).joined(4)
        reader.until(lambda: len(reader.read) == 2, "2 records")
        assert {(partition, record.value) for partition, record in reader.read} == {(Partition(t, 1), t.encode()) for t in topics}

    def test_broadcast_is_refused_where_it_is_not_claimed(self) -> None:
        if not self.caps.broadcast:
            topic = self.topic()
            with pytest.raises(CapabilityError):
                self.backend.consumer(Subscription((topic,), "g", broadcast=True))

    # --- sharing ------------------------------------------------------------------------------------------------------------------------

    def two(self, topic: str, partitions: int, **how: object) -> tuple[Reader, Reader]:
        """Two consumers over two connections, settled into their shares."""
        first = self.join(topic, partitions)
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: len(second.owned) == partitions // 2 == len(first.owned), "both have their share")
        return first, second

    def test_two_consumers_share_the_partitions(self) -> None:
        topic = self.topic(4)
        first, second = self.two(topic, 4)
        assert not set(first.owned) & set(second.owned)

    def test_each_record_goes_to_one_of_two_consumers(self) -> None:
        topic = self.topic(4)
        first, second = self.two(topic, 4)
        self.store([self.record(topic, b"%d" % number, partition=number % 4) for number in range(40)])
        self.until([first, second], lambda: len(first.read) + len(second.read) >= 40, "40 records")
        got = [record.value for reader in (first, second) for _, record in reader.read]
        assert sorted(got) == sorted(b"%d" % number for number in range(40))

    def test_a_joining_consumer_gets_its_share_by_a_hand_over_in_order(self) -> None:
        topic = self.topic(2)
        first, second = self.two(topic, 2)
        asked = first.seen(Revoking)
        assert len(asked) == 1
        (assigned,) = second.owned.values()
        assert isinstance(asked[0], Revoking)
        assert (assigned.partition, assigned.clean) == (asked[0].partition, True)
        assert assigned.epoch > asked[0].epoch

    def test_revoking_leaves_time_to_answer(self) -> None:
        topic = self.topic(2)
        first = self.join(topic, 2, answers_revoking=False)
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: bool(first.seen(Revoking)), "a Revoking")
        (asked,) = first.seen(Revoking)
        assert isinstance(asked, Revoking)
        assert asked.deadline > time.monotonic()
        assert not second.owned

    def test_what_is_settled_at_the_hand_over_does_not_come_again(self) -> None:
        topic = self.topic(2)
        for partition in range(2):
            self.publish(topic, [b"p%d-%d" % (partition, number) for number in range(10)], partition=partition)
        first = self.join(topic, 2, answers_revoking=False)
        first.until(lambda: len(first.read) == 20, "20 records")
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: bool(first.seen(Revoking)), "a Revoking")
        (asked,) = first.seen(Revoking)
        assert isinstance(asked, Revoking)
        middle = [record.position for partition, record in first.read if partition == asked.partition][6]
        first.send_settle(asked.partition, middle, final=True)
        self.until([first, second], lambda: len(second.read) == 4, "the four that were not settled")
        assert [record.value for _, record in second.read] == [b"p%d-%d" % (asked.partition.number, number) for number in range(6, 10)]

    def test_a_revoked_partition_delivers_nothing_more(self) -> None:
        topic = self.topic(2)
        first = self.join(topic, 2, answers_revoking=False)
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: bool(first.seen(Revoking)), "a Revoking")
        (asked,) = first.seen(Revoking)
        assert isinstance(asked, Revoking)
        self.publish(topic, [b"for the next owner"], partition=asked.partition.number)
        first.quiet()
        first.settle(asked.partition, final=True)
        self.until([first, second], lambda: bool(second.read), "the record at its new owner")

    def test_a_consumer_over_the_number_of_partitions_stands_by(self) -> None:
        topic = self.topic(1)
        first = self.join(topic, 1)
        idle = self.subscribe(topic, backend=self.connect())
        idle.quiet()
        assert not idle.owned
        first.close()
        self.publish(topic, [b"taken over"])
        assert values(idle.take(1)) == [b"taken over"]

    def test_two_consumers_of_one_connection_share_too(self) -> None:
        topic = self.topic(2)
        first, second = self.subscribe(topic), self.subscribe(topic)
        self.until([first, second], lambda: len(first.owned) == 1 == len(second.owned), "one partition each")

    def test_a_partition_has_one_owner_at_a_time_while_members_come_and_go(self) -> None:
        topic = self.topic(4)
        history: dict[Partition, list[int]] = {}
        members = [self.subscribe(topic) for _ in range(2)]
        for _ in range(3):
            members.append(self.subscribe(topic, backend=self.connect()))
            self.until(members, lambda: sum(len(member.owned) for member in members) == 4, "every partition owned")
            self._assert_apart(members)
            members.pop(0).close()
            self.until(members, lambda: sum(len(member.owned) for member in members) == 4, "every partition owned again")
            self._assert_apart(members)
            for member in members:
                for event in member.seen(Assigned):
                    assert isinstance(event, Assigned)
                    history.setdefault(event.partition, []).append(event.epoch)
        assert set(history) == {Partition(topic, number) for number in range(4)}

    def _assert_apart(self, members: list[Reader]) -> None:
        owned = [partition for member in members for partition in member.owned]
        assert len(owned) == len(set(owned))

    def test_an_epoch_is_never_given_twice(self) -> None:
        topic = self.topic(2)
        given: list[tuple[Partition, int]] = []
        members: list[Reader] = []
        for _ in range(4):
            members.append(self.subscribe(topic, backend=self.connect()))
            self.until(members, lambda: sum(len(member.owned) for member in members) == 2, "every partition owned")
            if len(members) > 1:
                leaving = members.pop(0)
                given += [(event.partition, event.epoch) for event in leaving.events if isinstance(event, Assigned)]
                leaving.close()
        given += [(event.partition, event.epoch) for member in members for event in member.events if isinstance(event, Assigned)]
        assert len(given) == len(set(given))

    # --- taking over ----------------------------------------------------------------------------------------------------------------------

    def test_closing_hands_over_promptly(self) -> None:
        topic = self.topic(2)
        first, second = self.two(topic, 2)
        first.close()
        began = time.monotonic()
        second.joined(2)
        assert time.monotonic() - began < self.lease_s

    def test_a_crashed_consumer_is_replaced(self) -> None:
        if self.gives("crash"):
            topic = self.topic(2)
            crashing = self.connect()
            first = self.join(topic, 2, backend=crashing)
            second = self.subscribe(topic)
            self.until([first, second], lambda: len(second.owned) == 1 == len(first.owned), "one partition each")
            self.crash(crashing)
            second.joined(2)

    def test_a_frozen_consumer_loses_its_partitions_and_settles_nothing_more(self) -> None:
        topic = self.topic(1)
        self.publish(topic, numbered(2))
        frozen = self.join(topic, lease_s=self.short_lease_s)
        frozen.take(2)
        ((partition, assigned),) = frozen.owned.items()
        taker = self.subscribe(topic, backend=self.connect(), lease_s=self.short_lease_s)
        assert values(taker.take(2)) == numbered(2)
        assert taker.owned[partition].epoch > assigned.epoch
        assert not taker.owned[partition].clean
        token = frozen.send_settle(partition, 1 << 40, epoch=assigned.epoch)
        assert frozen.answer(token).outcome == "stale"
        frozen.until(lambda: bool(frozen.seen(Lost)), "the news that it lost its partition")
        taker.close()

    def test_a_live_consumer_keeps_its_partitions_beyond_its_lease(self) -> None:
        topic = self.topic(1)
        owner = self.join(topic, lease_s=self.short_lease_s)
        other = self.subscribe(topic, backend=self.connect(), lease_s=self.short_lease_s)
        end = time.monotonic() + 1.5 * self.short_lease_s
        self.until([owner, other], lambda: time.monotonic() > end, "one and a half leases")
        assert len(owner.owned) == 1
        assert not other.owned

    def test_an_ownership_is_valid_when_it_is_given_and_is_renewed(self) -> None:
        topic = self.topic(1)
        reader = self.join(topic, lease_s=self.short_lease_s)
        (assigned,) = reader.owned.values()
        assert assigned.valid_until > time.monotonic()
        end = time.monotonic() + 1.5 * self.short_lease_s
        reader.until(lambda: time.monotonic() > end, "one and a half leases")
        valid = max([assigned.valid_until, *(event.valid_until for event in reader.events if isinstance(event, Renewed))])
        assert valid > time.monotonic()
