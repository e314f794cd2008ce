"""Delivery: bytes and envelope survive, credit and limits hold, poll waits and wakes as it should."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from mqsdk.spi import Batch, Record
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values

EVERY_BYTE = bytes(range(256))
LONGEST_NAME = 245  # of the SDK's own topics: <topic>.<group>.dlq, both names at their limit of 120
LONG_POLL_S = 30.0  # far longer than a wake takes
LONG_LEASE_S = 600.0  # so that no renewed lease ends a poll before the wake does


class DeliveryScenarios(Stage):
    # --- content -----------------------------------------------------------------------------------------------------------------

    def delivered(self, topic: str) -> Record:
        return self.join(topic).take(1)[0]

    def test_what_is_published_is_delivered(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"hello"])
        assert self.delivered(topic).value == b"hello"

    def test_what_is_published_while_a_consumer_waits_is_delivered(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.publish(topic, [b"live"])
        assert values(reader.take(1)) == [b"live"]

    @pytest.mark.parametrize(
        "value", [b"", b"\x00", EVERY_BYTE, b"MQB1" * 64, "grüße 🙂".encode()], ids=["empty", "nul", "all", "magic", "text"]
    )
    def test_a_value_survives_byte_for_byte(self, value: bytes) -> None:
        topic = self.topic()
        self.publish(topic, [value])
        assert self.delivered(topic).value == value

    @pytest.mark.parametrize("key", [None, b"k", b"\x00\xff\n", EVERY_BYTE * 4], ids=["none", "text", "binary", "longest"])
    def test_a_key_survives_byte_for_byte(self, key: bytes | None) -> None:
        topic = self.topic()
        self.publish(topic, [b"v"], key=key)
        assert self.delivered(topic).key == key

    def test_user_headers_survive_in_order(self) -> None:
        topic = self.topic()
        headers = (("b", "2"), ("a", "1"), ("empty", ""), ("text", "grüße 🙂"), ("long", "x" * 4000), ("traceparent", "00-ab-cd-01"))
        self.store([self.record(topic, headers=headers)])
        assert self.delivered(topic).headers == headers

    def test_as_many_headers_as_the_sdk_allows_survive(self) -> None:
        topic = self.topic()
        headers = tuple((f"name-{number}", str(number)) for number in range(65))
        self.store([self.record(topic, headers=headers)])
        assert self.delivered(topic).headers == headers

    def test_the_envelope_survives(self) -> None:
        topic = self.topic()
        envelope: dict[str, Any] = {
            "id": "order-7/invoice",
            "timestamp_ms": 1_700_000_000_123,
            "content_type": "application/json",
            "producer": "0123abcd",
            "sequence": 4_294_967_296,
            "attempt": 3,
        }
        self.store([self.record(topic, **envelope)])
        record = self.delivered(topic)
        assert {name: getattr(record, name) for name in envelope} == envelope

    def test_a_record_that_was_sent_again_is_known_by_its_mark(self) -> None:
        if self.caps.copies:
            topic = self.topic()
            first, other = (self.record(topic, producer="0123456789abcdef", sequence=number) for number in (7, 8))
            again = self.record(topic, producer="0123456789abcdef", sequence=7, id=first.id, timestamp_ms=first.timestamp_ms, again=True)
            self.store([first, other])
            self.store([again])
            found = self.join(topic).take(3)
            assert [record.again for record in found] == [False, False, True]
            assert found[2].mark == found[0].mark != found[1].mark
            assert found[2].extra == ()

    def test_what_was_not_given_is_absent(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"v"])
        record = self.delivered(topic)
        assert (record.content_type, record.headers, record.attempt, record.due_ms) == (None, (), 1, None)

    def test_further_headers_of_the_sdk_survive_apart_from_the_users(self) -> None:
        topic = self.topic()
        extra = (("mq-dlq-reason", "exhausted"), ("mq-dlq-error", "ValueError: grüße"), ("mq-dlq-attempts", "10"))
        self.store([self.record(topic, headers=(("mine", "1"),), extra=extra)])
        record = self.delivered(topic)
        assert set(record.extra) == set(extra)
        assert record.headers == (("mine", "1"),)

    def test_a_shadow_is_known_by_its_header_and_by_nothing_else(self) -> None:
        topic = self.topic()
        shadow = self.record(topic, b"1", extra=(("mq-shadow", "1"),))
        like_it = [self.record(topic, b"2", headers=(("mine", "mq-shadow"),)), self.record(topic, b"3", content_type="mq-shadow")]
        self.store([shadow, *like_it, self.record(topic, b"4", headers=(("mine", "1"),)), self.record(topic, b"5")])
        assert [record.shadow for record in self.join(topic).take(5)] == [True, False, False, False, False]

    def test_a_foreign_message_is_delivered(self) -> None:
        if self.gives("foreign_publish"):
            topic = self.topic()
            self.foreign_publish(topic, b"k", b"foreign", [("origin", "elsewhere")])
            record = self.delivered(topic)
            assert (record.key, record.value, record.headers) == (b"k", b"foreign", (("origin", "elsewhere"),))
            assert (record.id, record.producer, record.sequence, record.attempt) == (None, "", -1, 1)

    def test_the_size_of_a_batch_is_the_sum_of_its_records(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"12345"] * 20, key=b"key")
        reader = self.join(topic)
        reader.take(20)
        for event in reader.seen(Batch):
            assert isinstance(event, Batch)
            assert event.bytes == sum(record.size for record in event.records) == 8 * len(event.records)

    @pytest.mark.parametrize("name", ["a", "0", "with.dots-dashes_and.under_scores", "UPPER", "n" * 120])
    def test_every_allowed_name_works(self, name: str) -> None:
        self.admin.ensure_topic(name, 1)
        group = "g" * 80
        self.admin.ensure_group(name, group)
        self.publish(name, [name.encode()])
        reader = self.join(name, group=group)
        assert values(reader.take(1)) == [name.encode()]
        reader.close()
        self.admin.delete_topic(name)

    def test_the_topic_of_dead_letters_takes_its_long_name(self) -> None:
        topic, group = "t" * 120, "g" * 120
        longest = f"{topic}.{group}.dlq"
        assert len(longest) == LONGEST_NAME
        if self.caps.name_limit >= LONGEST_NAME:
            self.admin.ensure_topic(longest, 1)
            self.admin.ensure_group(longest, "g")
            self.publish(longest, [b"dead"])
            reader = self.join(longest)
            assert values(reader.take(1)) == [b"dead"]
            reader.close()
            self.admin.delete_topic(longest)

    # --- amount ------------------------------------------------------------------------------------------------------------------

    def test_many_unsettled_deliveries_are_out_at_once(self) -> None:
        topic = self.topic()
        sent = numbered(5000)
        self.publish(topic, sent)
        assert values(self.join(topic).take(5000)) == sent

    def test_a_backlog_over_all_partitions_is_read_to_its_end(self) -> None:
        topic = self.topic(4)
        for partition in range(4):
            self.publish(topic, numbered(1000, f"p{partition}-"), partition=partition)
        records = self.join(topic, 4).take(4000)
        assert len(set(values(records))) == 4000

    def test_poll_returns_at_most_what_was_asked_for(self) -> None:
        topic = self.topic(2)
        for partition in range(2):
            self.publish(topic, numbered(50), partition=partition)
        reader = self.join(topic, 2, max_records=7)
        while len(reader.read) < 100:
            seen = len(reader.read)
            reader.poll(self.timeout_s)
            assert len(reader.read) - seen <= 7

    def test_nothing_is_delivered_before_the_first_credit(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic, credit=None)
        reader.quiet()
        (partition,) = reader.owned
        reader.consumer.credit(partition, 100, 1 << 20)
        assert values(reader.take(3)) == numbered(3)

    def test_nothing_is_delivered_at_credit_zero_and_delivery_goes_on_with_credit(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic, credit=(0, 0))
        reader.quiet()
        (partition,) = reader.owned
        reader.consumer.credit(partition, 100, 1 << 20)
        assert values(reader.take(3)) == numbered(3)

    def test_a_pause_stops_a_running_delivery(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.publish(topic, [b"1"])
        reader.take(1)
        (partition,) = reader.owned
        reader.consumer.credit(partition, 0, 0)
        self.publish(topic, [b"2"])
        reader.quiet()
        reader.consumer.credit(partition, 1, 1 << 20)
        assert values(reader.take(1)) == [b"2"]

    def test_credit_is_used_up_by_records(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(20))
        reader = self.join(topic, credit=(5, 1 << 20))
        assert values(reader.take(5)) == numbered(20)[:5]
        reader.quiet()
        (partition,) = reader.owned
        reader.consumer.credit(partition, 3, 1 << 20)
        assert values(reader.take(3)) == numbered(20)[5:8]
        reader.quiet()

    def test_credit_is_used_up_by_bytes_and_one_record_may_pass_it(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"x" * 1000] * 5)
        reader = self.join(topic, credit=(100, 100))
        assert len(reader.take(1)) == 1
        reader.quiet()

    def test_a_new_credit_replaces_the_old_one(self) -> None:
        topic = self.topic()
        reader = self.join(topic, credit=(100, 1 << 20))
        (partition,) = reader.owned
        reader.consumer.credit(partition, 2, 1 << 20)
        self.publish(topic, numbered(10))
        assert values(reader.take(2)) == numbered(2)
        reader.quiet()

    def test_credit_of_one_partition_does_not_touch_another(self) -> None:
        topic = self.topic(2)
        reader = self.join(topic, 2)
        paused = next(partition for partition in reader.owned if partition.number == 0)
        reader.consumer.credit(paused, 0, 0)
        self.publish(topic, [b"held"], partition=0)
        self.publish(topic, [b"through"], partition=1)
        assert values(reader.take(1)) == [b"through"]
        reader.quiet()

    # --- waiting -----------------------------------------------------------------------------------------------------------------

    def test_an_empty_poll_ends_after_its_timeout(self) -> None:
        reader = self.settled_down(self.topic())
        began = time.monotonic()
        events = reader.poll(0.1)
        assert not [event for event in events if isinstance(event, Batch)]
        assert time.monotonic() - began < self.timeout_s

    def test_a_poll_without_timeout_does_not_block(self) -> None:
        reader = self.settled_down(self.topic())
        began = time.monotonic()
        for _ in range(20):
            reader.poll(0.0)
        assert time.monotonic() - began < self.timeout_s

    def test_wake_ends_a_blocked_poll(self) -> None:
        reader = self.settled_down(self.topic())
        self.assert_ended_by(reader, reader.consumer.wake)

    def test_wake_before_a_poll_ends_it(self) -> None:
        reader = self.settled_down(self.topic())
        reader.consumer.wake()
        began = time.monotonic()
        reader.poll(LONG_POLL_S)
        assert time.monotonic() - began < LONG_POLL_S / 2

    def test_a_publish_ends_a_blocked_poll(self) -> None:
        topic = self.topic()
        reader = self.settled_down(topic)
        self.assert_ended_by(reader, lambda: self.publish(topic, [b"now"]))
        assert values(reader.take(1)) == [b"now"]

    def settled_down(self, topic: str) -> Reader:
        """A joined consumer to which nothing more happens by itself."""
        reader = self.join(topic, lease_s=LONG_LEASE_S)
        reader.quiet()
        return reader

    def assert_ended_by(self, reader: Reader, cause: object) -> None:
        """`cause` is called while `poll` is (most likely) blocked, and ends it long before its own timeout."""
        assert callable(cause)
        polling, acted = threading.Event(), threading.Event()

        def act() -> None:
            polling.wait(self.timeout_s)
            acted.set()
            cause()

        thread = threading.Thread(target=act)
        thread.start()
        began = time.monotonic()
        polling.set()
        ended = False
        # A backend may report other things (a renewed lease) first; each is an early end of its own.
        while not ended and time.monotonic() - began < LONG_POLL_S / 2:
            events = reader.poll(LONG_POLL_S)
            # An empty answer before the timeout has one reason. The thread need not have ended yet: its `wake` may be about to return.
            ended = (acted.is_set() and not events) or bool([event for event in events if isinstance(event, Batch)])
        thread.join(self.timeout_s)
        assert time.monotonic() - began < LONG_POLL_S / 2
