"""The ladder of delays: kills while messages climb down, topics and groups that go meanwhile, queues that are somebody else's."""

from __future__ import annotations

from typing import Any

import pytest
from mqsdk_rabbitmq import ladder, names
from mqsdk_rabbitmq.backend import RabbitBackend
from mqsdk_rabbitmq.records import RabbitRecord

from mqsdk.spi import Assigned, NewRecord, Rejected, Stored, Unknown
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.delay import CLOCK_MS, DAY_MS, LATE_MS, SOON_MS, now_ms
from mqsdk.testing.conformance.reader import Reader, values
from tests.rabbitmq.stage import RabbitStage

ENOUGH_MS = 3000  # for a busy machine to do something before it is due
LONGEST_TIMER_MS = (1 << 32) - 1  # of the server's


class DelayStage(RabbitStage):
    def delayed(self, topic: str, value: bytes, wait_ms: int = SOON_MS, partition: int = 0) -> NewRecord:
        return self.record(topic, value, partition=partition, due_ms=now_ms() + wait_ms)

    def count(self, queue: str) -> int:
        with self.server.channel() as channel:
            found: int = channel.queue_declare(queue, passive=True).method.message_count
        return found


class TestFaults(DelayStage):
    def test_a_server_that_is_killed_while_they_climb_down_loses_none(self) -> None:
        sent = numbered(400)
        readers = [self.reader_with_delayed(queues, sent) for queues in ("quorum", "classic")]
        found: list[set[bytes]] = [set(), set()]

        def come(count: int) -> bool:
            for reader, values_found in zip(readers, found, strict=True):
                for _, record in reader.read:
                    assert now_ms() >= (record.due_ms or 0) - CLOCK_MS
                    values_found.add(record.value)
                reader.read.clear()
            return all(len(values_found) >= count for values_found in found)

        self.until(readers, lambda: come(50), "some of them")
        self.server.kill()
        assert not come(400), "some were to be on their way"
        self.server.start()
        self.until(readers, lambda: come(400), "all of them")

    def reader_with_delayed(self, queues: str, payloads: list[bytes]) -> Reader:
        """Of a topic with queues of this type, for which these have just been stored; the last quarter is due when the server is down."""
        backend = self.make_backend(queues=queues)
        self._backends.append(backend)
        backend.open(self.deadline())
        topic = f"delayed.{queues}"
        backend.admin().ensure_topic(topic, 4)
        backend.admin().ensure_group(topic, "g")
        reader = self.join(topic, 4, backend=backend)
        waits = [5 * number + (1000 if number < 300 else 10_000) for number in range(len(payloads))]
        self.store([self.delayed(topic, value, waits[number], number % 4) for number, value in enumerate(payloads)], backend)
        return reader

    def test_a_publisher_that_is_cut_has_no_doubt_about_what_was_confirmed(self) -> None:
        topic = self.topic()
        self.store([self.delayed(topic, b"warm")])
        publisher = self.backend._publisher
        assert publisher is not None
        publisher._loop.call(lambda: publisher._wire.cut(ConnectionError("cut by the test")))
        outcomes = self.outcomes([self.delayed(topic, value) for value in numbered(200)])
        stored = {b"m%d" % number for number, outcome in enumerate(outcomes) if isinstance(outcome, Stored)}
        reader = self.join(topic)
        reader.until(lambda: {record.value for _, record in reader.read} >= stored | {b"warm"}, "all that is stored")


class TestTopicsAndGroups(DelayStage):
    def test_a_topic_without_a_group_refuses_it_and_one_that_gets_its_first_takes_it(self) -> None:
        topic = self.topic(groups=())
        (refused,) = self.outcomes([self.delayed(topic, b"nobody")])
        assert isinstance(refused, Rejected)
        assert refused.code == "no_group"
        self.admin.ensure_group(topic, "g")
        self.store([self.delayed(topic, b"somebody")])
        assert values(self.join(topic).take(1)) == [b"somebody"]
        self.admin.ensure_group(topic, "h")
        self.store([self.delayed(topic, b"both")])
        assert values(self.join(topic, group="h").take(1)) == [b"both"]

    def test_after_its_last_group_a_topic_refuses_it_and_what_waits_is_not_gone_unseen(self) -> None:
        topic = self.topic()
        self.store([self.delayed(topic, b"for nobody", ENOUGH_MS)])
        self.admin.delete_group(topic, "g")
        (refused,) = self.outcomes([self.delayed(topic, b"refused")])
        assert isinstance(refused, Rejected)
        assert refused.code == "no_group"
        self._assert_dead([b"for nobody"])

    def test_what_waits_for_a_topic_that_is_deleted_is_not_gone_unseen(self) -> None:
        topic = self.topic()
        self.store([self.delayed(topic, b"for no topic", ENOUGH_MS)])
        self.admin.delete_topic(topic)
        self._assert_dead([b"for no topic"])

    def _assert_dead(self, expected: list[bytes]) -> None:
        """In the queue of what the server gives up, where `doctor` sees it."""
        self.until([], lambda: self.count(names.DEAD) >= len(expected), "the queue mq..dead")
        found = [finding.what for finding in self.backend.health().findings if finding.code == "dead"]
        assert found
        with self.server.channel() as channel:
            assert [channel.basic_get(names.DEAD, auto_ack=True)[2] for _ in expected] == expected

    @pytest.fixture(autouse=True)
    def _emptied(self, _server: None) -> None:
        backend = self.make_backend()
        backend.open(self.deadline())
        backend.admin().ensure_topic("any.dlq", 1)  # declares the queue
        backend.close(self.deadline())
        with self.server.channel() as channel:
            channel.queue_purge(names.DEAD)

    def test_a_publisher_that_does_not_know_of_the_deletion_is_told_and_finds_the_new_topic(self) -> None:
        topic = self.topic()
        other = self.connect()
        self.store([self.delayed(topic, b"warm")], other)
        self.admin.delete_topic(topic)
        self.admin.ensure_topic(topic, 1)
        self.admin.ensure_group(topic, "g")
        doubtful = self.outcomes([self.delayed(topic, b"doubtful")], other)[0]
        assert isinstance(doubtful, Unknown)
        self.store([self.delayed(topic, b"new")], other)
        reader = self.join(topic)
        assert values(reader.take(1)) == [b"new"]
        reader.quiet()

    def test_a_queue_that_was_deleted_gets_it_when_it_is_there_again(self) -> None:
        topic = self.topic()
        self.store([self.delayed(topic, b"first")])
        reader = self.join(topic)
        assert values(reader.take(1)) == [b"first"]
        ((partition, _),) = reader.owned.items()
        with self.server.channel() as channel:
            channel.queue_delete(names.queue(partition, "g"))
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "declared again")
        self.store([self.delayed(topic, b"second")])
        assert values(reader.take(1)) == [b"second"]


class TestLadder(DelayStage):
    def test_a_year_is_stored_and_waits_in_the_highest_step(self) -> None:
        topic = self.topic()
        self.store([self.delayed(topic, b"next year", 366 * DAY_MS)])
        assert self.count(names.step(len(ladder.STEPS) - 1)) >= 1
        (refused,) = self.outcomes([self.delayed(topic, b"too late", ladder.LONGEST_MS + 1000)])
        assert isinstance(refused, Rejected)
        assert refused.code == "invalid"

    def test_a_step_that_is_somebody_elses_is_refused_by_name(self) -> None:
        vhost = self.server.new_vhost()
        backend: RabbitBackend = self.make_backend(vhost=vhost)
        self._backends.append(backend)
        backend.open(self.deadline())
        backend.admin().ensure_topic("t", 1)
        backend.admin().ensure_group("t", "g")
        with self.server.connection(virtual_host=vhost) as connection:
            connection.channel().queue_declare(names.step(3), durable=True, arguments={"x-queue-type": "quorum", "x-message-ttl": 1})
        (refused,) = self.outcomes([self.delayed("t", b"early")], backend)
        assert isinstance(refused, Rejected)
        assert names.step(3) in refused.what
        with self.server.connection(virtual_host=vhost) as connection:
            connection.channel().queue_delete(names.step(3))
        self.store([self.delayed("t", b"in time")], backend)
        assert values(self.join("t", backend=backend).take(1)) == [b"in time"]

    def test_a_step_that_was_deleted_is_made_again_before_it_is_missed(self) -> None:
        """Without its queue a message would pass the step by, and come early."""
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, b"warm")])
        reader.take(1)
        with self.server.channel() as channel:
            for level in range(4):
                channel.queue_delete(names.step(level))
        backend = self.connect()
        record = self.delayed(topic, b"in time", 15 * ladder.TICK_MS)
        self.store([record], backend)
        reader.take(1)
        assert now_ms() >= (record.due_ms or 0) - CLOCK_MS

    def test_a_message_that_climbed_down_is_an_ordinary_one(self) -> None:
        """It comes again and is dead-lettered like any, and what the server wrote into it is no header."""
        topic = self.topic()
        self.store([self.delayed(topic, b"v", SOON_MS + 3 * ladder.TICK_MS)._replace(headers=(("mine", "1"),))])
        first = self.join(topic)
        first.take(1)
        first.close()
        (again,) = self.join(topic).take(1)
        assert isinstance(again, RabbitRecord)
        assert b"x-death" in again.properties
        assert (again.headers, again.extra, again.redelivered) == ((("mine", "1"),), (), True)

    def test_headers_by_which_the_server_would_route_are_refused_and_others_are_not_in_doubt(self) -> None:
        topic = self.topic(2)
        mine: tuple[Any, ...] = ((("CC", "1"),), (("BCC", "1"), ("BCC", "0")), (("cc", "1"),))
        outcomes = self.outcomes([self.record(topic, b"%d" % number, headers=headers) for number, headers in enumerate(mine)])
        assert [outcome.code if isinstance(outcome, Rejected) else "stored" for outcome in outcomes] == ["invalid", "invalid", "stored"]
        reader = self.join(topic, 2)
        (record,) = reader.take(1)
        assert (record.value, record.headers) == (b"2", (("cc", "1"),))
        reader.quiet()


def test_the_steps_of_a_wait_are_never_shorter_and_less_than_a_tick_longer() -> None:
    waits = [1, 124, 125, 126, 1000, 3_600_000, 366 * DAY_MS, ladder.LONGEST_MS]
    waits += [1 << power for power in range(35)] + [(1 << power) - 1 for power in range(1, 35)]
    ticks = {names.step_key(level, is_first=False): ticks for level, ticks in enumerate(ladder.STEPS)}
    for wait_ms in waits:
        first, *later = ladder.keys(wait_ms)
        keys = [first.replace("f", "d"), *later]
        assert len(set(keys)) == len(keys), "a queue twice is a cycle to the server"
        assert wait_ms <= sum(ticks[key] for key in keys) * ladder.TICK_MS < wait_ms + ladder.TICK_MS
    with pytest.raises(ValueError, match="days"):
        ladder.keys(ladder.LONGEST_MS + 1)
    assert ladder.LONGEST_MS >= 366 * DAY_MS
    assert max(ladder.step_arguments(level)["x-message-ttl"] for level in range(len(ladder.STEPS))) <= LONGEST_TIMER_MS
    assert ladder.TICK_MS < LATE_MS / 4
