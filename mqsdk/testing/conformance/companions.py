"""Topics of the group's own beside the topic: found when they come, and partition p of all in one hand, also while it changes hands."""

from __future__ import annotations

from collections.abc import Sequence

from mqsdk.spi import Assigned, Lost, Partition, Revoking
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values


class CompanionScenarios(Stage):
    def pair(self, partitions: int = 2) -> tuple[str, str]:
        """A topic, and the name of one beside it that does not exist."""
        topic = self.topic(partitions)
        return topic, f"{topic}.g.retry"

    def begin(self, name: str, partitions: int = 2) -> None:
        self.admin.ensure_topic(name, partitions)
        self.admin.ensure_group(name, "g")

    def test_a_companion_that_does_not_exist_keeps_nobody_from_reading_the_topic(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair()
            self.publish(topic, [b"here"])
            reader = self.subscribe(topic, beside).joined(2)
            assert values(reader.take(1)) == [b"here"]
            assert self.admin.partitions(beside) is None

    def test_a_companion_is_taken_up_when_the_group_begins_in_it(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair()
            reader = self.subscribe(topic, beside).joined(2)
            self.begin(beside)
            self.publish(beside, [b"beside"], partition=1)
            assert values(reader.take(1)) == [b"beside"]
            assert set(reader.owned) == {Partition(name, number) for name in (topic, beside) for number in range(2)}

    def test_all_members_take_it_up_and_each_partition_has_the_owner_of_the_topics(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair(4)
            members = [self.subscribe(topic, beside, backend=self.connect()) for _ in range(2)]
            self.until(members, lambda: all(len(member.owned) == 2 for member in members), "both have their share")
            self.begin(beside, 4)
            self.until(members, lambda: all(len(member.owned) == 4 for member in members), "both have their share of both topics")
            self._assert_together(members, topic, beside)

    def test_what_is_settled_in_one_is_not_settled_in_the_other(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair(1)
            self.begin(beside, 1)
            self.publish(topic, numbered(2))
            self.publish(beside, numbered(2, "r"))
            reader = self.subscribe(topic, beside).joined(2)
            end = max(record.position for record in reader.take(4) if record.value.startswith(b"r")) + 1
            assert reader.answer(reader.send_settle(Partition(beside, 0), end)).outcome == "stored"
            reader.close()
            again = self.subscribe(topic, beside)
            assert values(again.take(2)) == numbered(2)
            again.quiet()

    def test_they_stay_together_while_members_come_and_go(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair(4)
            self.begin(beside, 4)
            members = [self.subscribe(topic, beside, backend=self.connect()) for _ in range(2)]
            for _ in range(2):
                members.append(self.subscribe(topic, beside, backend=self.connect()))
                self.until(members, lambda: self._is_shared(members, 8), "every partition owned")
                self._assert_together(members, topic, beside)
                members.pop(0).close()
                self.until(members, lambda: self._is_shared(members, 8), "every partition owned again")
                self._assert_together(members, topic, beside)

    def test_the_next_owner_gets_neither_before_both_are_handed_back(self) -> None:
        if self.caps.companions:
            for last in range(2):
                names = self.pair()
                self.begin(names[1])
                first = self.subscribe(*names, answers_revoking=False).joined(4)
                second = self.subscribe(*names, backend=self.connect())
                self.until([first, second], lambda first=first: len(first.seen(Revoking)) == 2, "both are asked for")
                number = {event.partition.number for event in first.seen(Revoking) if isinstance(event, Revoking)}.pop()
                order = [Partition(name, number) for name in (names if last else names[::-1])]
                first.answer(first.send_settle(order[0], final=True))
                second.quiet()
                assert not second.owned, f"{order[0]} was given on although {order[1]} is still held"
                first.send_settle(order[1], final=True)
                self.until([first, second], lambda second=second: len(second.owned) == 2, "both at the next owner")
                first.close()
                second.close()

    def test_the_first_is_assigned_before_the_others(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair()
            self.begin(beside)
            reader = self.subscribe(topic, beside).joined(4)
            order = [event.partition for event in reader.seen(Assigned) if isinstance(event, Assigned)]
            for number in range(2):
                assert order.index(Partition(topic, number)) < order.index(Partition(beside, number))

    def test_after_a_crash_both_are_taken_over(self) -> None:
        if self.caps.companions and self.gives("crash"):
            topic, beside = self.pair()
            self.begin(beside)
            doomed = self.connect()
            self.subscribe(topic, beside, backend=doomed, lease_s=self.short_lease_s).joined(4)
            self.crash(doomed)
            self.publish(topic, [b"new"])
            self.publish(beside, [b"again"])
            assert sorted(values(self.subscribe(topic, beside, lease_s=self.short_lease_s).take(2))) == [b"again", b"new"]

    def test_a_frozen_owner_loses_both(self) -> None:
        if self.caps.companions:
            topic, beside = self.pair()
            self.begin(beside)
            frozen = self.subscribe(topic, beside, backend=self.connect(), lease_s=self.short_lease_s).joined(4)
            taker = self.subscribe(topic, beside, lease_s=self.short_lease_s)
            taker.until(lambda: len(taker.owned) == 4, "everything at the taker")  # the frozen one is not polled
            self.until([frozen, taker], lambda: len(frozen.seen(Lost)) == 4, "the frozen one is told")

    def _is_shared(self, members: Sequence[Reader], partitions: int) -> bool:
        return sum(len(member.owned) for member in members) == partitions

    def _assert_together(self, members: Sequence[Reader], topic: str, beside: str) -> None:
        for member in members:
            numbers = [{one.number for one in member.owned if one.topic == name} for name in (topic, beside)]
            assert numbers[0] == numbers[1], f"partitions of the topic and of its companion are apart: {numbers}"
