"""Questions that are out while a consumer handles what came before: nothing of it is lost, passed over or left without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from mqsdk_redis.pipeline import Pipeline

from mqsdk.spi import Lost, Partition
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Reader, values
from tests.redis.stage import RedisStage


class HalfWire:
    """A connection that takes questions and never answers."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, commands: list[Any]) -> None:
        self.sent += commands

    def replies(self, commands: list[Any]) -> list[Any]:
        raise ConnectionError("cut")


def test_what_was_in_the_outbox_is_asked_again_and_a_read_is_not() -> None:
    pipeline, wire = Pipeline(), HalfWire()
    pipeline.send(["SETTLE", 1])
    pipeline.send(["SETTLE", 2])
    pipeline.ask(wire, [(["READ"], lambda _: None)])  # type: ignore[arg-type]  # as much of a Wire as it needs
    assert (wire.sent, pipeline.outbox) == ([["SETTLE", 1], ["SETTLE", 2], ["READ"]], [])
    pipeline.send(["SETTLE", 3])
    with pytest.raises(ConnectionError):
        pipeline.hear(wire)  # type: ignore[arg-type]  # as above
    pipeline.forget()
    assert [command for command, _ in pipeline.outbox] == [["SETTLE", 1], ["SETTLE", 2], ["SETTLE", 3]]


class TestAhead(RedisStage):
    def reading_ahead(self, topic: str, **how: Any) -> Reader:
        """It has handled 10 of 100 and has asked for the next ones."""
        self.publish(topic, numbered(100))
        reader = self.join(topic, max_records=10, **how)
        assert values(reader.take(10)) == numbered(10)
        assert self.pending(topic) > 10, "the next ones are under way"
        return reader

    def test_what_was_read_ahead_is_not_lost_with_its_reader(self) -> None:
        topic = self.topic()
        self.reading_ahead(topic).close()
        assert values(self.redelivered(topic, 100)) == numbered(100)

    def test_a_cut_connection_neither_skips_nor_repeats_what_was_read_ahead(self) -> None:
        topic = self.topic()
        reader = self.reading_ahead(topic)
        self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert values(reader.take(90)) == numbered(100)[10:]
        assert not reader.seen(Lost)
        reader.quiet()

    def test_a_settle_that_was_under_way_when_the_connection_was_cut_is_answered(self) -> None:
        topic = self.topic()
        reader = self.reading_ahead(topic)
        token = reader.send_settle(Partition(topic, 0), 11)
        self.server.freeze()
        reader.poll(0.0)  # brings records that were read ahead, so that the settle is only sent
        assert len(reader.read) == 10
        reader.consumer._wire.abort()  # type: ignore[attr-defined]  # of this adapter's consumers
        self.server.thaw()
        assert reader.answer(token).outcome == "stored"
        reader.close()
        assert values(self.redelivered(topic, 90)) == numbered(100)[10:]

    def test_what_was_read_ahead_under_a_lost_lease_is_not_delivered(self) -> None:
        topic = self.topic()
        frozen = self.reading_ahead(topic, lease_s=0.5)
        taker = self.join(topic, lease_s=0.5, backend=self.connect())
        assert values(taker.take(100)) == numbered(100)
        frozen.read.clear()
        frozen.until(lambda: bool(frozen.seen(Lost)), "it is told")
        assert frozen.owned == {}

    def test_what_credit_does_not_allow_yet_is_read_and_held_back(self) -> None:
        topic = self.topic()
        reader = self.reading_ahead(topic, credit=(10, 1 << 20))
        reader.quiet()
        reader.consumer.credit(Partition(topic, 0), 1000, 1 << 20)
        assert values(reader.take(90)) == numbered(100)[10:]

    def test_a_pause_holds_back_what_was_read_ahead(self) -> None:
        topic = self.topic()
        reader = self.reading_ahead(topic)
        reader.consumer.credit(Partition(topic, 0), 0, 0)
        reader.quiet()
        reader.consumer.credit(Partition(topic, 0), 1000, 1 << 20)
        assert values(reader.take(90)) == numbered(100)[10:]

    def test_scripts_that_the_server_has_forgotten_are_loaded_again(self) -> None:
        topic = self.topic()
        reader = self.reading_ahead(topic)
        self.server.call("SCRIPT", "FLUSH")
        assert values(reader.take(90)) == numbered(100)[10:]
        assert [event for event in reader.events if type(event).__name__ == "Link"] == []
