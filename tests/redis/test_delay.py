"""Delayed entries beside what may happen to a server: foreign producers, no memory, a kill, keys that are gone."""

from __future__ import annotations

import time
from typing import Any

from mqsdk_redis import names

from mqsdk.spi import NewRecord, Partition, Rejected
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.delay import DAY_MS, SOON_MS, now_ms
from mqsdk.testing.conformance.reader import values
from tests.redis.stage import RedisStage


class TestDelay(RedisStage):
    def delayed(self, topic: str, value: bytes, wait_ms: int = SOON_MS) -> NewRecord:
        return self.record(topic, value, due_ms=now_ms() + wait_ms)

    def waiting(self, topic: str) -> tuple[Any, Any]:
        """(entries that wait, payloads that are kept, with the counter)."""
        due, payloads, _ = names.delayed(Partition(topic, 0))
        return self.server.call("ZCARD", due), self.server.call("HLEN", payloads)

    def test_nothing_is_left_of_what_was_delivered(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, value) for value in numbered(450)])
        assert self.waiting(topic) == (450, 451)
        assert values(reader.take(450)) == numbered(450)
        assert self.waiting(topic) == (0, 1)

    def test_it_goes_on_where_a_foreign_producer_has_moved_the_stream(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.record(topic, b"ours"), self.delayed(topic, b"delayed")])
        self.server.call("XADD", self.stream(topic), "*", "body", "foreign")
        assert values(reader.take(3)) == [b"ours", b"foreign", b"delayed"]
        self.store([self.delayed(topic, b"again"), self.record(topic, b"at once")])
        found = reader.take(2)
        assert values(found) == [b"at once", b"again"]
        assert found[1].position == found[0].position + 1
        assert not reader.gaps()

    def test_a_killed_server_keeps_it(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, b"later", 1000)])
        self.server.kill()
        self.server.start()
        (record,) = reader.take(1)
        assert (record.value, now_ms() >= (record.due_ms or 0)) == (b"later", True)
        reader.quiet()

    def test_without_memory_nothing_is_delayed_and_what_is_due_comes(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, b"later")])
        self.server.call("CONFIG", "SET", "maxmemory", 1)
        (outcome,) = self.outcomes([self.delayed(topic, b"refused")])
        assert isinstance(outcome, Rejected)
        assert outcome.code == "full"
        assert values(reader.take(1)) == [b"later"]
        self.server.call("CONFIG", "SET", "maxmemory", 0)
        reader.quiet()
        assert self.waiting(topic) == (0, 1)

    def test_a_consumer_whose_news_are_gone_finds_it(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, b"tomorrow", DAY_MS)])
        reader.quiet()
        self.server.call("DEL", names.delayed(Partition(topic, 0))[2])
        self.store([self.delayed(topic, b"soon")])
        assert values(reader.take(1)) == [b"soon"]

    def test_it_is_kept_as_long_after_its_due_time_as_others_after_their_publish(self) -> None:
        backend = self.make_backend(keep=2)
        backend.open(self.deadline())
        self._backends.append(backend)
        topic = self.topic()
        reader = self.join(topic, backend=backend, lease_s=1.0)  # a third of it is how often it looks at what to remove
        published_ms = now_ms() - DAY_MS
        self.store([self.record(topic, b"old", timestamp_ms=published_ms)])
        self.store([self.record(topic, b"delayed", timestamp_ms=published_ms, due_ms=now_ms() + SOON_MS)])
        due_ms = reader.take(2)[1].due_ms or 0
        reader.settle_all()
        reader.until(lambda: self.server.call("XLEN", self.stream(topic)) == 1, "the old one is removed")
        assert now_ms() < due_ms + 2000
        reader.until(lambda: self.server.call("XLEN", self.stream(topic)) == 0, "the delayed one is removed")
        assert now_ms() >= due_ms + 2000

    def test_a_consumer_that_waits_for_tomorrow_asks_once_a_second(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.store([self.delayed(topic, b"tomorrow", DAY_MS)])
        reader.quiet()
        before, began = self._calls(), time.monotonic()
        while time.monotonic() < began + 2.0:
            reader.poll(2.0)
        assert self._calls() - before <= 40

    def _calls(self) -> int:
        """Commands that the server has run, those of scripts too."""
        found = self.server.call("INFO", "stats")
        assert isinstance(found, dict)
        return int(found["total_commands_processed"])
