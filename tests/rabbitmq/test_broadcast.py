"""Instances of a broadcast when connections, servers and queues go: nothing comes twice, nothing is missed, or a gap says so."""

from __future__ import annotations

import pytest
from mqsdk_rabbitmq import slot, topology
from mqsdk_rabbitmq.backend import RabbitBackend
from mqsdk_rabbitmq.consumer import RabbitConsumer
from mqsdk_rabbitmq.feed import Feed
from mqsdk_rabbitmq.instance import Instance
from mqsdk_rabbitmq.owned import FIRST
from pika.exceptions import ChannelClosedByBroker

from mqsdk.spi import Gap, Link, Lost, Partition, Record
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Reader, values
from tests.rabbitmq.stage import RabbitStage, cut


def feed_of(reader: Reader, partition: Partition) -> Feed:
    assert isinstance(reader.consumer, RabbitConsumer)
    assert isinstance(reader.consumer._hub, Instance)
    return reader.consumer._hub.feeds[partition]


class TestBroadcast(RabbitStage):
    def instance(self, topic: str, backend: RabbitBackend | None = None, **how: object) -> Reader:
        return self.subscribe(topic, broadcast=True, backend=backend, **how).joined(1)  # type: ignore[arg-type]  # keywords of subscribe

    def is_there(self, queue: str) -> bool:
        with self.server.connection() as connection:
            try:
                connection.channel().queue_declare(queue, passive=True)
            except ChannelClosedByBroker:
                return False
            return True

    @pytest.mark.parametrize("queues", ["quorum", "classic"])
    def test_cut_connections_bring_nothing_twice_and_miss_nothing(self, queues: str) -> None:
        backend = self.make_backend(queues=queues)
        self._backends.append(backend)
        backend.open(self.deadline())
        topic = self.topic()
        reader = self.instance(topic, backend, max_records=20)
        (partition,) = reader.owned
        sent = numbered(600)
        got: list[bytes] = []
        for start in range(0, 600, 50):
            self.publish(topic, sent[start : start + 50])
            fresh = reader.take(30)
            got += values(fresh)
            reader.send_settle(partition, fresh[-7].position)  # under way when the socket is cut, and settled again after it
            cut(reader)
            reader.send_settle(partition, fresh[-3].position)
        got += values(reader.take(600 - len(got)))
        assert got == sent
        reader.settle_all()
        reader.quiet()
        assert not reader.seen(Lost)
        assert not reader.gaps()

    def test_a_killed_server_brings_nothing_twice_and_misses_nothing(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        (partition,) = reader.owned
        self.publish(topic, numbered(20))
        first = reader.take(20)
        assert reader.answer(reader.send_settle(partition, first[9].position)).outcome == "stored"
        self.server.kill()
        reader.until(lambda: bool(reader.seen(Link)), "the news that the link is down")
        assert reader.answer(reader.send_settle(partition, first[14].position)).outcome == "stored"
        self.server.start()
        self.publish(topic, [b"after"])
        assert values(reader.take(1)) == [b"after"]
        reader.settle_all()
        reader.quiet()

    def test_what_is_settled_makes_room_and_what_is_not_holds_the_window(self) -> None:
        backend = self.make_backend(prefetch=10)
        self._backends.append(backend)
        backend.open(self.deadline())
        topic = self.topic()
        reader = self.instance(topic, backend)
        (partition,) = reader.owned
        self.publish(topic, numbered(35))
        got = reader.take(10)
        reader.quiet()
        while len(got) < 35:
            reader.send_settle(partition, got[-1].position + 1)
            got += reader.take(min(10, 35 - len(got)))
        assert values(got) == numbered(35)

    def test_large_bodies_narrow_the_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slot, "WINDOW_BYTES", 100_000)
        topic = self.topic()
        reader = self.instance(topic)
        (partition,) = reader.owned
        sent = [b"%04d" % number + bytes(10_000) for number in range(60)]
        self.publish(topic, sent)
        got: list[Record] = []
        while len(got) < 60:
            got += reader.take(1)
            if len(got) == 50:
                assert feed_of(reader, partition)._prefetch == 9
            reader.send_settle(partition, got[-1].position + 1)
        assert values(got) == sent

    def test_a_queue_that_is_gone_is_a_gap_and_made_again(self) -> None:
        topic = self.topic()
        reader = self.instance(topic)
        (partition,) = reader.owned
        self.publish(topic, numbered(3))
        last = reader.take(3)[-1].position
        with self.server.channel() as channel:
            channel.queue_delete(feed_of(reader, partition).queue)
        reader.until(lambda: bool(reader.seen(Gap)), "the gap")
        assert reader.gaps() == [(last + 1, last + 2)]
        self.publish(topic, [b"after"])
        (after,) = reader.take(1)
        assert (after.value, after.position) == (b"after", last + 2)
        reader.settle_all()
        assert not reader.seen(Lost)

    def test_who_takes_the_place_of_another_gets_what_came_meanwhile(self) -> None:
        topic = self.topic(2)
        first = self.subscribe(topic, broadcast=True).joined(2)
        self.publish(topic, numbered(5))
        place = first.take(5)[3].position
        first.send_settle(Partition(topic, 0), place)
        first.close()
        self.publish(topic, [b"meanwhile"])
        second = self.subscribe(topic, broadcast=True, positions=((0, place), (1, FIRST))).joined(2)
        assert values(second.take(3)) == [b"m3", b"m4", b"meanwhile"]
        second.settle_all()
        second.quiet()
        assert not second.gaps()

    def test_a_feed_that_is_asked_for_twice_has_one_channel(self) -> None:
        """Else the first would be the one that receives, and nobody would look at it."""
        topic = self.topic()
        reader = self.instance(topic)
        (partition,) = reader.owned
        feed = feed_of(reader, partition)
        for _ in range(3):
            cut(reader)
            reader.until(lambda: feed._channel is None, "the connection is gone")
            reader.until(lambda: feed._channel is not None, "a new one")
            feed._instance.loop.call(feed.attach)  # type: ignore[union-attr]  # it has one
        self.publish(topic, numbered(3))
        assert values(reader.take(3)) == numbered(3)

    def test_a_place_that_nobody_has_left_is_a_gap(self) -> None:
        """Of another connection, which an exchange of the cluster's options makes."""
        topic = self.topic()
        reader = self.instance(topic, self.make_opened(), positions=((0, 7),))
        assert len(reader.seen(Gap)) == 1
        self.publish(topic, [b"new"])
        assert values(reader.take(1)) == [b"new"]

    def make_opened(self) -> RabbitBackend:
        backend = self.connect()
        assert isinstance(backend, RabbitBackend)
        return backend

    def test_its_queues_go_with_the_backend_and_expire_after_a_crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topology, "EXPIRES_MS", 500)
        topic = self.topic()
        leaving, crashing = self.make_opened(), self.make_opened()
        readers = [self.instance(topic, backend) for backend in (leaving, leaving, crashing, self.backend)]
        queues = [feed_of(reader, Partition(topic, 0)).queue for reader in readers]
        readers[0].close()
        leaving.close(self.deadline())
        assert [self.is_there(queue) for queue in queues] == [False, False, True, True]
        crashing.crash()
        self.until([], lambda: not self.is_there(queues[2]), "the queue of the crashed one is gone")
        assert self.is_there(queues[3]), "one that is consumed from does not expire"
