"""Delayed records: stored when published, in nobody's way until they are due, in their place from then on, whoever runs."""

from __future__ import annotations

import threading
import time
from typing import Any

from mqsdk.spi import Gap, NewRecord, Partition, Record, Stored
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values

SOON_MS = 300  # long enough that what comes too early is seen
LATE_MS = 1000  # the promise: within a second
DAY_MS = 86_400_000
CLOCK_MS = 2  # a broker may round otherwise than we do


class DelayScenarios(Stage):
    @property
    def delays(self) -> bool:
        return self.caps.delay == "native"

    def delayed(self, topic: str, value: bytes, wait_ms: int = SOON_MS, partition: int = 0, **fields: Any) -> NewRecord:
        """A record that is due in so many milliseconds."""
        return self.record(topic, value, fields.pop("key", None), partition, due_ms=now_ms() + wait_ms, **fields)

    def delay(self, topic: str, value: bytes, wait_ms: int = SOON_MS, partition: int = 0) -> int:
        """Store it; its due time."""
        record = self.delayed(topic, value, wait_ms, partition)
        self.store([record])
        assert record.due_ms is not None
        return record.due_ms

    def wait_until(self, due_ms: int) -> None:
        """Time alone makes it due."""
        while (left_ms := due_ms + CLOCK_MS - now_ms()) > 0:
            threading.Event().wait(left_ms / 1000)

    def wait_for_place(self, due_ms: int) -> None:
        """Until one that is due then has its place."""
        self.wait_until(due_ms if self.caps.exact_delay else due_ms + LATE_MS)

    def undecided(self) -> str:
        """A topic to whose groups to come one may publish."""
        return self.topic(groups=() if self.caps.keeps_topic else ("other",))

    def taken(self, reader: Reader, count: int = 1) -> list[Record]:
        """The next records, each of them no earlier than due and no later than a second after."""
        found: list[Record] = []
        for _ in range(count):
            (record,) = reader.take(1)
            if record.due_ms is not None:
                assert record.due_ms - CLOCK_MS <= now_ms() <= record.due_ms + LATE_MS, f"due at {record.due_ms}, came at {now_ms()}"
            found.append(record)
        return found

    def messages(self, topic: str, group: str = "g") -> int:
        return sum(one.messages for one in self.admin.progress(topic, group))

    # --- when -----------------------------------------------------------------------------------------------------------------------

    def test_a_delayed_record_comes_at_its_due_time_and_once(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            due_ms = self.delay(topic, b"later")
            (record,) = self.taken(reader)
            assert (record.value, record.due_ms, record.placed_ms) == (b"later", due_ms, due_ms)
            reader.settle_all()
            reader.quiet()

    def test_what_is_published_meanwhile_comes_before(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            self.delay(topic, b"later")
            self.publish(topic, [b"now"])
            assert values(self.taken(reader, 2)) == [b"now", b"later"]

    def test_delayed_records_a_second_apart_come_in_the_order_of_their_due_times(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            self.delay(topic, b"second", SOON_MS + LATE_MS)
            self.delay(topic, b"first")
            assert values(self.taken(reader, 2)) == [b"first", b"second"]

    def test_delayed_records_come_in_the_order_of_their_due_times(self) -> None:
        if self.delays and self.caps.exact_delay:
            for reads_later in (False, True):
                topic = self.topic()
                reader = self.join(topic)
                base_ms = now_ms() + SOON_MS
                waits = [(b"c", 100), (b"a", 0), (b"b1", 50), (b"d", 150), (b"b2", 50), (b"b3", 50)]
                self.store([self.record(topic, value, b"k", due_ms=base_ms + wait) for value, wait in waits])
                if reads_later:
                    self.wait_until(base_ms + 150)
                assert values(self.taken(reader, 6)) == [b"a", b"b1", b"b2", b"b3", b"c", b"d"]

    def test_a_consumer_that_sleeps_wakes_for_it(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            due_ms = self.delay(topic, b"later")
            deadline = self.deadline()
            while not reader.read and time.monotonic() < deadline:
                reader.poll(self.timeout_s)
            assert values(reader.take(1)) == [b"later"]
            assert now_ms() <= due_ms + LATE_MS

    def test_from_its_due_time_on_it_stands_before_what_is_published_later(self) -> None:
        if self.delays:
            topic = self.topic()
            due_ms = self.delay(topic, b"delayed")
            if not self.caps.exact_delay:
                due_ms += LATE_MS
            self.wait_until(due_ms)
            self.publish(topic, [b"published later"])
            assert values(self.join(topic).take(2)) == [b"delayed", b"published later"]

    def test_an_earlier_one_that_is_published_later_wakes_a_consumer_that_waits(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            self.delay(topic, b"tomorrow", DAY_MS)
            reader.quiet()
            self.delay(topic, b"soon")
            assert values(self.taken(reader)) == [b"soon"]

    def test_a_due_time_that_has_passed_is_none(self) -> None:
        if self.delays:
            topic = self.topic()
            positions = self.store([self.record(topic, b"a"), self.record(topic, b"b", due_ms=now_ms() - 1), self.record(topic, b"c")])
            numbers = [position for position in positions if position is not None]
            assert numbers == sorted(numbers)
            assert len(numbers) == (0 if positions[0] is None else 3)
            assert values(self.join(topic).take(3)) == [b"a", b"b", b"c"]

    # --- where ----------------------------------------------------------------------------------------------------------------------

    def test_each_group_gets_it_once(self) -> None:
        if self.delays:
            topic = self.topic(groups=("g", "h"))
            readers = [self.join(topic, group=group) for group in ("g", "h")]
            self.delay(topic, b"later")
            self.until(readers, lambda: all(reader.read for reader in readers), "at both groups")
            for reader in readers:
                assert values(reader.take(1)) == [b"later"]
                reader.quiet()

    def test_a_group_that_begins_before_it_is_due_gets_it(self) -> None:
        if self.delays:
            topic = self.undecided()
            self.delay(topic, b"later", 3 * SOON_MS)  # the group has to be there before
            self.admin.ensure_group(topic, "late", "latest")
            assert values(self.taken(self.join(topic, group="late"))) == [b"later"]

    def test_a_group_that_begins_at_the_end_after_it_was_due_does_not_get_it(self) -> None:
        if self.delays:
            topic = self.undecided()
            self.wait_for_place(self.delay(topic, b"was due"))
            self.admin.ensure_group(topic, "late", "latest")
            self.publish(topic, [b"new"])
            assert values(self.join(topic, group="late").take(1)) == [b"new"]

    def test_each_partition_delays_for_itself(self) -> None:
        if self.delays:
            topic = self.topic(4)
            self.store([self.delayed(topic, b"m%d" % number, SOON_MS + 50 * number, number) for number in range(4)])
            reader = self.join(topic, 4)
            assert sorted(values(self.taken(reader, 4))) == numbered(4)
            assert {partition.number for partition, _ in reader.read} == set()

    def test_records_of_one_call_are_answered_each(self) -> None:
        if self.delays:
            topic = self.topic()
            mixed = [self.record(topic, b"a"), self.delayed(topic, b"b"), self.delayed(topic, b"c"), self.record(topic, b"d")]
            outcomes = self.outcomes(mixed)
            positions = [outcome.position for outcome in outcomes if isinstance(outcome, Stored)]
            assert len(positions) == 4
            assert positions[1:] == [None, None, None if positions[0] is None else positions[0] + 1]
            found = values(self.taken(self.join(topic), 4))
            if not self.caps.exact_delay:
                found[2:] = sorted(found[2:])
            assert found == [b"a", b"d", b"b", b"c"]

    def test_everything_of_the_record_comes_back(self) -> None:
        if self.delays:
            topic = self.topic()
            fields: dict[str, Any] = {
                "content_type": "application/json", "headers": (("colour", "blue"), ("name", "Zo\u00eb")), "producer": "0123456789abcdef",
                "sequence": 7, "extra": (("mq-redrive-of", "t:0:1"),),
            }  # fmt: skip
            record = self.delayed(topic, bytes(range(256)) * 4, key=b"\x00k\xff", **fields)
            self.store([record])
            (found,) = self.taken(self.join(topic))
            names = ("key", "value", "id", "timestamp_ms", "due_ms", *fields)
            assert {name: getattr(found, name) for name in names} == {name: getattr(record, name) for name in names}

    def test_a_large_one_comes_back(self) -> None:
        if self.delays:
            topic = self.topic()
            self.delay(topic, b"x" * self.sdk_payload)
            assert self.taken(self.join(topic))[0].size == self.sdk_payload

    # --- what it costs --------------------------------------------------------------------------------------------------------------

    def test_what_is_not_due_is_no_lag_and_in_nobodys_way(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            tomorrow = now_ms() + DAY_MS
            self.store([self.record(topic, b"%d" % number, due_ms=tomorrow - number) for number in range(3000)])
            assert self.messages(topic) == 0
            if self.caps.exact_lag:
                assert sum(one.delayed for one in self.admin.progress(topic, "g")) == 3000
            self.publish(topic, [b"now"])
            assert values(reader.take(1)) == [b"now"]
            reader.settle_all()
            reader.quiet()
            assert self.messages(topic) == 0

    def test_what_is_due_counts_although_nobody_runs(self) -> None:
        if self.delays:
            topic = self.topic()
            due_ms = self.delay(topic, b"later", 3 * SOON_MS)
            assert self.messages(topic) == 0
            self.wait_for_place(due_ms)
            (progress,) = self.admin.progress(topic, "g")
            assert progress.messages == 1
            if self.caps.exact_lag:
                assert (progress.delayed, progress.oldest_ms) == (0, due_ms)

    def test_many_that_are_due_at_once_all_come_in_order(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic)
            due_ms = now_ms() + SOON_MS
            self.store([self.record(topic, value, due_ms=due_ms) for value in numbered(1500)])
            found = values(reader.take(1500))
            if not self.caps.exact_delay:
                found.sort(key=numbered(1500).index)
            assert found == numbered(1500)

    def test_publishing_after_many_that_are_due_does_not_pass_them(self) -> None:
        if self.delays:
            topic = self.topic()
            due_ms = now_ms() + SOON_MS
            self.store([self.record(topic, value, due_ms=due_ms) for value in numbered(1500)])
            self.wait_for_place(due_ms)
            self.publish(topic, [b"last"])
            found = values(self.join(topic).take(1501))
            assert found.pop() == b"last"
            if not self.caps.exact_delay:
                found.sort(key=numbered(1500).index)
            assert found == numbered(1500)

    def test_credit_holds_it_back_as_any_other(self) -> None:
        if self.delays:
            topic = self.topic()
            reader = self.join(topic, credit=None)
            self.wait_until(self.delay(topic, b"later"))
            reader.quiet()
            reader.consumer.credit(Partition(topic, 0), 1, 1 << 20)
            assert values(reader.take(1)) == [b"later"]

    # --- who is gone ----------------------------------------------------------------------------------------------------------------

    def test_it_outlives_its_publisher_and_the_consumer_that_waited(self) -> None:
        if self.delays and self.gives("crash"):
            topic = self.topic()
            doomed = self.connect()
            self.join(topic, backend=doomed, lease_s=self.short_lease_s)
            self.store([self.delayed(topic, b"later")], doomed)
            self.crash(doomed)
            assert values(self.join(topic, lease_s=self.short_lease_s).take(1)) == [b"later"]

    def test_it_outlives_a_restart_of_the_broker(self) -> None:
        if self.delays and self.gives("restart_broker"):
            topic = self.topic()
            due_ms = self.delay(topic, b"later")
            self.restart_broker()
            reader = self.join(topic, backend=self.connect())
            assert [(record.value, record.due_ms) for record in reader.take(1)] == [(b"later", due_ms)]
            reader.quiet()

    def test_it_is_delivered_again_like_any_other(self) -> None:
        if self.delays:
            topic = self.topic()
            first = self.join(topic)
            self.delay(topic, b"later")
            self.taken(first)
            first.close()
            assert values(self.redelivered(topic, 1)) == [b"later"]

    def test_it_goes_with_its_topic(self) -> None:
        if self.delays:
            topic = self.topic()
            self.delay(topic, b"of the old topic")
            self.admin.delete_topic(topic)
            self.admin.ensure_topic(topic, 1)
            self.admin.ensure_group(topic, "g")
            self.delay(topic, b"of the new topic")
            reader = self.join(topic)
            assert values(reader.take(1)) == [b"of the new topic"]
            reader.quiet()

    # --- where layer 2 delays -------------------------------------------------------------------------------------------------------

    @property
    def is_delayed_by_layer_2(self) -> bool:
        return self.caps.delay == "ladder"

    def test_what_layer_2_delays_is_stored_like_any_other_and_keeps_its_due_time(self) -> None:
        if self.is_delayed_by_layer_2:
            topic = self.topic()
            tomorrow = now_ms() + DAY_MS
            positions = self.store([self.record(topic, b"a"), self.record(topic, b"b", due_ms=tomorrow), self.record(topic, b"c")])
            assert positions[1:] == [(positions[0] or 0) + 1, (positions[0] or 0) + 2]
            assert [(record.value, record.due_ms) for record in self.join(topic).take(3)] == [(b"a", None), (b"b", tomorrow), (b"c", None)]

    def test_what_is_settled_may_be_trimmed_and_the_rest_is_there(self) -> None:
        if self.is_delayed_by_layer_2:
            topic, partition = self.topic(), 0
            positions = self.publish(topic, numbered(10))
            first = self.join(topic)
            first.take(10)
            first.settle(Partition(topic, partition), positions[5])
            self.admin.trim(topic, {partition: positions[5] or 0})
            first.close()
            reader = self.join(topic)
            assert values(reader.take(5)) == numbered(10)[5:]
            assert reader.seen(Gap) == []


def now_ms() -> int:
    return time.time_ns() // 1_000_000
