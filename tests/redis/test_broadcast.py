"""Instances of a broadcast on a server that removes, loses and forgets entries."""

from __future__ import annotations

from typing import Any

import pytest
from mqsdk_redis import names

from mqsdk.spi import Assigned, Gap, Link, Lost, Partition
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Reader, values
from tests.redis.stage import RedisStage


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that these tests can wait for."""
    monkeypatch.setattr("mqsdk_redis.instance.PLACE_S", 2.0)
    monkeypatch.setattr("mqsdk_redis.instance.TURN_S", 0.2)


class TestBroadcast(RedisStage):
    def instance(self, topic: str, **how: Any) -> Reader:
        backend = self.make_backend(keep=0)
        self._backends.append(backend)
        backend.open(self.deadline())
        return self.subscribe(topic, broadcast=True, backend=backend, **how).joined(1)

    def held(self, topic: str) -> int:
        first, end = self.admin.bounds(topic, 0)
        return end - first

    def test_entries_are_kept_for_the_instance_that_has_not_settled_them(self) -> None:
        topic = self.topic(groups=())
        slow, fast = self.instance(topic, credit=None), self.instance(topic)
        self.publish(topic, numbered(10))
        fast.take(10)
        fast.settle_all()
        partition = Partition(topic, 0)
        slow.consumer.credit(partition, 4, 1 << 20)
        slow.take(4)
        slow.settle_all()
        self.until([slow, fast], lambda: self.held(topic) == 6, "what both have settled is removed")
        slow.consumer.credit(partition, 100, 1 << 20)
        assert values(slow.take(6)) == numbered(10)[4:]
        assert not slow.gaps()
        slow.settle_all()
        self.until([slow, fast], lambda: self.held(topic) == 0, "the rest is removed")

    def test_an_instance_that_ended_without_a_word_holds_nothing_back_for_long(self) -> None:
        topic = self.topic()
        dead, living = self.instance(topic, credit=None), self.join(topic)
        dead.consumer.vanish()  # type: ignore[attr-defined]  # of this adapter's consumers
        fast = self.instance(topic)
        self.publish(topic, numbered(5))
        for reader in (fast, living):
            reader.take(5)
            reader.settle_all()
        self.until([fast, living], lambda: self.held(topic) == 0, "removed")
        places = names.instances(Partition(topic, 0))
        self.until([fast, living], lambda: self.server.call("ZCARD", places[0]) == self.server.call("HLEN", places[1]) == 1, "forgotten")
        fast.close()
        assert self.server.call("EXISTS", *places) == 0

    def test_a_group_and_an_instance_hold_back_for_each_other(self) -> None:
        topic = self.topic()
        fast = self.instance(topic)
        self.publish(topic, numbered(5))
        fast.take(5)
        fast.settle_all()
        for _ in range(5):
            fast.poll(0.3)
        assert self.held(topic) == 5, "the group has read nothing yet"
        assert values(self.join(topic).take(5)) == numbered(5)

    def test_killed_connections_neither_skip_nor_repeat(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        for number in range(5):
            self.publish(topic, [b"m%d" % number])
            self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert values(reader.take(5)) == numbered(5)
        reader.quiet()

    def test_a_killed_server_costs_nothing(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        self.publish(topic, numbered(2))
        self.server.kill()
        reader.until(lambda: bool(reader.seen(Link)), "the news that the link is down")
        self.server.start()
        self.publish(topic, [b"after"])
        assert values(reader.take(3)) == [*numbered(2), b"after"]
        assert (len(reader.seen(Assigned)), reader.seen(Lost), reader.gaps()) == (1, [], [])

    def test_a_flushed_server_is_a_gap_and_it_goes_on(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        self.publish(topic, numbered(3))
        reader.take(3)
        self.server.call("FLUSHALL")
        reader.until(lambda: bool(reader.gaps()), "the gap")
        self.publish(topic, [b"after"])
        assert values(reader.take(1)) == [b"after"]
        assert {gap.reason for gap in reader.seen(Gap) if isinstance(gap, Gap)} == {"truncated"}

    def test_entries_that_the_server_has_lost_are_a_gap_and_their_numbers_are_not_given_again(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        positions = self.publish(topic, numbered(3))
        reader.take(3)
        stream = self.stream(topic)
        with self.server.client() as client, client.pipeline(transaction=True) as lose:
            lose.delete(stream)
            lose.xadd(stream, {"body": "m0"}, id="0-1")
            lose.execute()
        reader.until(lambda: bool(reader.gaps()), "the gap")
        (position,) = self.publish(topic, [b"after"])
        assert position is not None
        assert position > max(found or 0 for found in positions)
        assert values(reader.take(1)) == [b"after"]
