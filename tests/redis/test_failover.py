"""A primary that dies, a real sentinel that makes its replica the primary, and a consumer and a producer that go on there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mqsdk_redis.backend import RedisBackend

from mqsdk.spi import Assigned, Link, Lost, Partition, Stored
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import values
from tests.brokers.redis import RedisServer
from tests.redis.stage import RedisStage, backend_at

BOUND_S = 45.0  # down after half a second, elected and promoted within a few: three times that and what a loaded machine adds
SENTINEL = """
sentinel monitor main 127.0.0.1 {port} 1
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 4000
"""


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        threading.Event().wait(0.02)


class TestFailover(RedisStage):
    timeout_s = BOUND_S

    @pytest.fixture(autouse=True)
    def _servers(self, _server: None, tmp_path: Path) -> Iterator[None]:
        (tmp_path / "replica").mkdir()
        (tmp_path / "sentinel").mkdir()
        self.replica = RedisServer(tmp_path / "replica", "--replicaof", f"127.0.0.1 {self.server.port}", "--repl-diskless-sync-delay", "0")
        settings = tmp_path / "sentinel" / "sentinel.conf"
        settings.write_text(SENTINEL.format(port=self.server.port))
        self.sentinel = RedisServer.sentinel(tmp_path / "sentinel", settings)
        wait(lambda: bool(self.sentinel.call("SENTINEL", "REPLICAS", "main")), "the sentinel sees the replica")
        yield
        self.sentinel.stop()
        self.replica.stop()

    def make_backend(self, **options: object) -> RedisBackend:
        return backend_at([self.sentinel.address], sentinel="main", **options)

    def replicated(self) -> None:
        """What was acknowledged until now stands on the replica."""
        wait(lambda: self.server.call("WAIT", 1, 100) == 1, "the replica has everything")

    def publish_until_stored(self, topic: str, value: bytes) -> None:
        record = self.record(topic, value)
        wait(lambda: isinstance(self.outcomes([record._replace(token=self.record(topic).token)])[0], Stored), "stored on the new primary")

    def test_everybody_goes_on_at_the_new_primary(self) -> None:
        topic = self.topic()
        reader, instance = self.join(topic), self.subscribe(topic, broadcast=True, backend=self.connect()).joined(1)
        self.publish(topic, numbered(10))
        taken = reader.take(10)
        assert values(instance.take(10)) == numbered(10)
        record = self.record(topic, b"delayed")
        self.store([record._replace(due_ms=record.timestamp_ms + 3000)])
        ((partition, before),) = reader.owned.items()
        reader.answer(reader.send_settle(partition, taken[4].position + 1))
        self.replicated()
        self.server.kill()
        self.until([reader, instance], lambda: all(one.seen(Link) for one in (reader, instance)), "the news that the link is down")
        reader.read.clear()
        self.publish_until_stored(topic, b"after")
        self.until([reader, instance], lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        assert len(reader.seen(Lost)) == 1
        assert reader.owned[Partition(topic, 0)].epoch > before.epoch
        found = [*numbered(10)[5:], b"after", b"delayed"]
        self.until([reader, instance], lambda: len(reader.read) >= 7 and len(instance.read) >= 2, "everything at both")
        assert values(reader.take(5)) == found[:5]
        assert sorted(values(reader.take(2))) == sorted(found[5:])
        assert sorted(values(instance.take(2))) == sorted(found[5:])
        assert not reader.gaps()
        assert not instance.gaps()
